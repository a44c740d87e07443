//! NICs as QEMU is told of them: the same parts on its command line and while it runs.
//!
//! A NIC is two things there, the node's end (a tap device, or a network that QEMU itself is) and the card that the guest
//! sees. Their names follow from the NIC alone, so that they are the same after others came and went.

use model::param::NicMode;
use serde_json::{Map, Value, json};

use super::devices::{DeviceArgs, short_name};
use super::driver::{Guest, Home};
use super::hotplug::Step;
use super::qmp::Qmp;
use super::runtime::Runtime;
use crate::network::{self, Network};
use crate::spec::{InstanceSpec, NicSpec};
use crate::{Hotplug, NodeError, Result};

/// The name of the node's end.
fn netdev_id(nic: &NicSpec) -> String {
    short_name("net", nic.uuid.as_str())
}

/// The name of the card.
pub(crate) fn nic_id(nic: &NicSpec) -> String {
    short_name("nic", nic.uuid.as_str())
}

fn unsupported(text: impl Into<String>) -> NodeError {
    NodeError::Unsupported(text.into())
}

/// The node's end of a NIC, as `-netdev` takes it.
pub(crate) fn netdev(spec: &InstanceSpec, nic: &NicSpec) -> Result<DeviceArgs> {
    let Some(tap) = network::tap_name(nic) else {
        return match NicMode::parse(&nic.mode) {
            Some(NicMode::User) => Ok(DeviceArgs::new("user").with("id", netdev_id(nic))),
            _ => Err(unsupported(format!(
                "a NIC of instance {} has mode '{}', which the kvm hypervisor does not know",
                spec.name, nic.mode
            ))),
        };
    };
    let features = network::features(spec);
    let mut netdev = DeviceArgs::new("tap")
        .with("id", netdev_id(nic))
        .with("ifname", tap)
        .with("script", "no")
        .with("downscript", "no")
        .with("vnet_hdr", features.vnet_hdr);
    if features.vhost {
        netdev = netdev.with("vhost", true);
    }
    if features.queues > 1 {
        netdev = netdev.with("queues", features.queues);
    }
    Ok(netdev)
}

/// The card; the command line adds its place in the boot order.
pub(crate) fn card(spec: &InstanceSpec, nic: &NicSpec) -> Result<DeviceArgs> {
    let driver = match spec.hv("nic_type") {
        "" | "paravirtual" => "virtio-net-pci",
        kind @ ("e1000" | "rtl8139" | "ne2k_pci" | "ne2k_isa" | "i82551" | "i82557b"
        | "i82559er" | "pcnet") => kind,
        other => return Err(unsupported(format!("nic_type '{other}' is not known to QEMU"))),
    };
    let card = DeviceArgs::new(driver)
        .with("netdev", netdev_id(nic))
        .with("id", nic_id(nic))
        .with("mac", nic.mac.as_str());
    let queues = network::features(spec).queues;
    // A vector for each direction of each queue, and two more.
    Ok(match network::tap_name(nic).is_some() && queues > 1 {
        true => card.with("mq", true).with("vectors", 2 * queues + 2),
        false => card,
    })
}

/// A card without the boot code that nobody uses. An ISA card has none.
pub(crate) fn without_boot_code(spec: &InstanceSpec, card: DeviceArgs) -> DeviceArgs {
    if spec.hv("nic_type") == "ne2k_isa" { card } else { card.with("romfile", "") }
}

/// What makes a NIC appear in a guest; its tap device is there. `spec` is the instance as it was started. With `place` the
/// card gets the place on the bus that another had.
pub(crate) fn add_nic(
    spec: &InstanceSpec,
    nic: &NicSpec,
    place: Option<&str>,
) -> Result<Vec<Step>> {
    let Value::Object(mut arguments) = netdev(spec, nic)?.arguments() else {
        return Err(unsupported("a NIC is told of by names and values"));
    };
    let kind = arguments.remove("driver").unwrap_or_default();
    let arguments: Map<String, Value> =
        [("type".to_owned(), kind)].into_iter().chain(arguments).collect();
    let mut card = without_boot_code(spec, card(spec, nic)?);
    if let Some(place) = place {
        card = card.with("addr", place);
    }
    let undo = ("netdev_del", json!({"id": netdev_id(nic)}));
    Ok(vec![
        Step::Run(("netdev_add", Value::Object(arguments)), Some(undo)),
        Step::Run(("device_add", card.arguments()), None),
    ])
}

/// What takes a NIC out of a guest.
pub(crate) fn remove_nic(nic: &NicSpec) -> Vec<Step> {
    vec![Step::Unplug(nic_id(nic)), Step::Run(("netdev_del", json!({"id": netdev_id(nic)})), None)]
}

/// Changes a NIC of a running instance, whose tags are these by now. The runtime file knows of a NIC before its tap device
/// is made and until it is gone.
pub(crate) async fn hotplug(
    home: &Home,
    guest: &Guest,
    tags: &[String],
    action: Hotplug,
    nic: &NicSpec,
    index: usize,
) -> Result<(), String> {
    let plug = Plug { home, guest, tags };
    match action {
        Hotplug::Add => plug.add(nic, index, None).await,
        Hotplug::Remove => plug.remove(nic).await.map(drop),
        // Ganeti: it goes and comes back to its place (3.0, `hv_kvm` HotModDevice).
        Hotplug::Modify => {
            let place = plug.place(nic).await;
            let old = plug.remove(nic).await?;
            let added = plug.add(nic, index, place.as_deref()).await;
            if let (Err(_), Some(old)) = (&added, old)
                && let Err(error) = plug.add(&old, index, place.as_deref()).await
            {
                tracing::error!(nic.uuid = %nic.uuid, %error, "a NIC that could not be changed does not come back");
            }
            added
        }
    }
}

/// Takes away what is left of NICs that a server was about to plug in, or had pulled out, when it was killed: those of which
/// QEMU has no card.
pub(crate) async fn settle(network: &Network, runtime: &mut Runtime, qmp: &Qmp) {
    if !runtime.spec.nics.iter().any(|nic| network::tap_name(nic).is_some()) {
        return;
    }
    let listed = qmp.run("qom-list", json!({"path": "/machine/peripheral"})).await;
    let Ok(Value::Array(cards)) = listed else {
        tracing::warn!(instance.name = %runtime.spec.name, ?listed, "QEMU does not tell its cards");
        return;
    };
    let has = |nic: &NicSpec| cards.iter().any(|card| card["name"] == nic_id(nic).as_str());
    for (index, nic) in runtime.spec.nics.iter().enumerate().filter(|(_, nic)| !has(nic)) {
        // That there is nothing of it is what is expected.
        let _ = qmp.run("netdev_del", json!({"id": netdev_id(nic)})).await;
        network.down(&runtime.spec, index, nic).await;
    }
    runtime.spec.nics.retain(has);
}

struct Plug<'a> {
    home: &'a Home,
    guest: &'a Guest,
    tags: &'a [String],
}

impl Plug<'_> {
    /// Where a card is on its bus, if it is there.
    async fn place(&self, nic: &NicSpec) -> Option<String> {
        let path = format!("/machine/peripheral/{}", nic_id(nic));
        let arguments = json!({"path": path, "property": "addr"});
        let place = self.guest.qmp("qom-get", arguments).await.ok()?;
        place.as_str().map(str::to_owned)
    }

    fn note(&self, change: impl FnOnce(&mut Runtime)) -> Result<(), String> {
        let noted = self.guest.remember(&self.home.runtime_dir, change);
        noted.map_err(|error| format!("can't note a changed NIC: {error}"))
    }

    fn forget(&self, nic: &NicSpec) -> Result<(), String> {
        self.note(|runtime| runtime.spec.nics.retain(|other| other.uuid != nic.uuid))
    }

    async fn add(&self, nic: &NicSpec, index: usize, place: Option<&str>) -> Result<(), String> {
        if self.place(nic).await.is_some() {
            // By a server that was killed before it could tell.
            return Ok(());
        }
        // It may have been killed half-way, too. That there is nothing of it is what is expected.
        let _ = self.guest.qmp("netdev_del", json!({"id": netdev_id(nic)})).await;
        // As it was started; its filters are those that are asked for now.
        let mut spec = self.guest.runtime().spec;
        spec.tags = self.tags.to_vec();
        let steps = add_nic(&spec, nic, place).map_err(|error| error.to_string())?;
        self.note(|runtime| {
            runtime.spec.tags = self.tags.to_vec();
            runtime.spec.nics.retain(|other| other.uuid != nic.uuid);
            let at = index.min(runtime.spec.nics.len());
            runtime.spec.nics.insert(at, nic.clone());
        })?;
        let network = &self.home.network;
        let plugged = match network.up(&spec, index, nic).await {
            Ok(()) => self.guest.change_devices(&steps).await,
            Err(error) => Err(error.to_string()),
        };
        if plugged.is_err() {
            network.down(&spec, index, nic).await;
            self.forget(nic)?;
        }
        plugged.map(drop)
    }

    /// Answers the NIC as it was.
    async fn remove(&self, nic: &NicSpec) -> Result<Option<NicSpec>, String> {
        let found = self.guest.change_devices(&remove_nic(nic)).await?;
        let spec = self.guest.runtime().spec;
        let at = spec.nics.iter().position(|other| other.uuid == nic.uuid);
        let Some(at) = at else {
            if found {
                return Ok(None);
            }
            return Err(format!("Cannot find runtime info for nic with UUID {}", nic.uuid));
        };
        self.home.network.down(&spec, at, &spec.nics[at]).await;
        self.forget(nic)?;
        Ok(Some(spec.nics[at].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::command_line::tests::instance;
    use super::*;

    fn with_mode(mode: &str, changes: Value) -> InstanceSpec {
        let mut spec = instance(changes);
        spec.nics[0].mode = mode.into();
        spec
    }

    #[test]
    fn options() {
        let check = |mode: &str, changes: Value, ends: &str, cards: &str| {
            let spec = with_mode(mode, changes);
            let nic = &spec.nics[0];
            assert_eq!(netdev(&spec, nic).unwrap().option(), ends);
            let names =
                "netdev=net-a1c00000000040008000,id=nic-a1c00000000040008000,mac=aa:00:00:12:34:56";
            let card = card(&spec, nic).unwrap().option();
            assert_eq!(card.replace(names, "…"), cards);
        };
        let tap = |more: &str| {
            format!(
                "tap,id=net-a1c00000000040008000,ifname=tapa1c000000000,script=no,downscript=no,{more}"
            )
        };
        check("user", json!({}), "user,id=net-a1c00000000040008000", "virtio-net-pci,…");
        check(
            "user",
            json!({"vhost_net": true, "virtio_net_queues": 2}),
            "user,id=net-a1c00000000040008000",
            "virtio-net-pci,…",
        );
        check("bridged", json!({"vnet_hdr": true}), &tap("vnet_hdr=on"), "virtio-net-pci,…");
        check("routed", json!({}), &tap("vnet_hdr=off"), "virtio-net-pci,…");
        let e1000 = json!({"nic_type": "e1000", "vnet_hdr": true, "vhost_net": true});
        check("openvswitch", e1000, &tap("vnet_hdr=off"), "e1000,…");
        check(
            "bridged",
            json!({"vnet_hdr": true, "vhost_net": true, "virtio_net_queues": 3}),
            &tap("vnet_hdr=on,vhost=on,queues=3"),
            "virtio-net-pci,…,mq=on,vectors=8",
        );
    }

    #[test]
    fn a_nic_comes_and_goes() {
        let spec = with_mode("bridged", json!({"vnet_hdr": true}));
        insta::assert_debug_snapshot!(add_nic(&spec, &spec.nics[0], Some("05.0")).unwrap());
        insta::assert_debug_snapshot!(remove_nic(&spec.nics[0]));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let spec = with_mode("pool", json!({}));
        let error = netdev(&spec, &spec.nics[0]).unwrap_err().to_string();
        assert_eq!(
            error,
            "a NIC of instance web.example.com has mode 'pool', which the kvm hypervisor does not know"
        );
    }
}
