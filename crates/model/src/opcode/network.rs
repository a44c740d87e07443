//! The opcodes on networks.

use crate::param::{Ip4, Ip6, Net4, Net6, NicMode, NonEmpty};

opcodes! {
    /// Adds a network.
    NetworkAdd "OP_NETWORK_ADD" hooks("network-add") summary(network_name) {
        /// The network.
        network_name: NonEmpty,
        /// The IPv4 network.
        network: Net4,
        /// The IPv4 gateway.
        gateway: Option<Ip4> = None,
        /// The IPv6 network.
        network6: Option<Net6> = None,
        /// The IPv6 gateway.
        gateway6: Option<Ip6> = None,
        /// The first three octets of the MAC addresses that are made.
        mac_prefix: Option<NonEmpty> = None,
        /// Addresses to reserve beside those that instances use.
        add_reserved_ips: Option<Vec<Ip4>> = None,
        /// Whether addresses are checked against those of known networks.
        conflicts_check: bool = true,
        /// The tags.
        tags: Vec<NonEmpty> = Default::default(),
    }
    /// Connects a network to a node group.
    NetworkConnect "OP_NETWORK_CONNECT" hooks("network-connect") summary(network_name) {
        /// The node group.
        group_name: NonEmpty,
        /// The network.
        network_name: NonEmpty,
        /// The mode of NICs that the network has in the group.
        network_mode: NicMode,
        /// The bridge or routing table that the network has in the group.
        network_link: NonEmpty,
        /// The VLAN that the network has in the group.
        network_vlan: String = "".into(),
        /// Whether addresses are checked against those of known networks.
        conflicts_check: bool = true,
    }
    /// Disconnects a network from a node group.
    NetworkDisconnect "OP_NETWORK_DISCONNECT" hooks("network-disconnect") summary(network_name) {
        /// The node group.
        group_name: NonEmpty,
        /// The network.
        network_name: NonEmpty,
    }
    /// Removes a network.
    NetworkRemove "OP_NETWORK_REMOVE" hooks("network-remove") summary(network_name) {
        /// The network.
        network_name: NonEmpty,
        /// Whether to go on where a check would refuse.
        force: bool = false,
    }
    /// Renames a network (since Ganeti 3.1).
    NetworkRename "OP_NETWORK_RENAME" hooks("network-rename") summary() {
        /// The network.
        network_name: NonEmpty,
        /// The new name.
        new_name: NonEmpty,
    }
    /// Changes parameters of a network.
    NetworkSetParams "OP_NETWORK_SET_PARAMS" hooks("network-modify") summary(network_name) {
        /// The network.
        network_name: NonEmpty,
        /// The IPv4 gateway.
        gateway: Option<Ip4> = None,
        /// The IPv6 network.
        network6: Option<Net6> = None,
        /// The IPv6 gateway.
        gateway6: Option<Ip6> = None,
        /// The first three octets of the MAC addresses that are made.
        mac_prefix: Option<NonEmpty> = None,
        /// Addresses to reserve beside those that instances use.
        add_reserved_ips: Option<Vec<Ip4>> = None,
        /// Addresses to reserve no more.
        remove_reserved_ips: Option<Vec<Ip4>> = None,
    }
}
