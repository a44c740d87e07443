//! The addresses of a network: which offset an address has, and which are free.

use std::net::Ipv4Addr;

use model::config::Network;

/// The first address and the number of addresses of a network.
pub(crate) fn range(network: &Network) -> Option<(u32, u32)> {
    let (address, length) = network.network.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits = 32 - length.parse::<u32>().ok().filter(|length| *length <= 32)?;
    let size = 1u32.checked_shl(bits)?;
    Some((u32::from(address) & !(size - 1), size))
}

/// Where in the network an address is; `None` when it is not in it.
pub(crate) fn offset(network: &Network, ip: &str) -> Option<u32> {
    let (base, size) = range(network)?;
    let address = u32::from(ip.parse::<Ipv4Addr>().ok()?);
    address.checked_sub(base).filter(|offset| *offset < size)
}

/// The address at an offset.
pub(crate) fn address(network: &Network, offset: u32) -> Option<String> {
    let (base, size) = range(network)?;
    (offset < size).then(|| Ipv4Addr::from(base + offset).to_string())
}

/// Whether an instance uses the address or it is reserved.
pub(crate) fn is_taken(network: &Network, offset: u32) -> bool {
    network.reservations.contains(&offset) || network.ext_reservations.contains(&offset)
}
