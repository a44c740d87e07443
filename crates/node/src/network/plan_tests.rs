//! Golden plans: one per way of being connected.

use serde_json::json;

use super::super::testing::instance;
use super::*;

fn text(steps: &[Step]) -> String {
    let line = |step: &Step| match step {
        Step::Run(words) => words.join(" "),
        Step::Set(path, value) => format!("{} = {value}", path.display()),
    };
    steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn connected(
    mode: &str,
    link: &str,
    vlan: &str,
    bridge: Option<&Bridge>,
) -> Result<String, String> {
    let mut spec = instance(mode, link);
    spec.nics[0].vlan = vlan.into();
    let tap = tap_name(&spec.nics[0]).unwrap();
    Ok(text(&connect(&spec.name, 0, &spec.nics[0], &tap, bridge)?))
}

#[test]
fn a_tap_device_is_named_after_its_nic() {
    let check = |mode: &str, name: Option<&str>, expected: Option<&str>| {
        let mut nic = instance(mode, "br0").nics.remove(0);
        nic.name = name.map(str::to_owned);
        assert_eq!(tap_name(&nic).as_deref(), expected);
    };
    check("user", None, None);
    check("odd", None, None);
    check("bridged", None, Some("tapa1c000000000"));
    check("openvswitch", Some("front"), Some("tapa1c000000000"));
    check("routed", Some("ganeti:communication:web"), Some("gnt.com.a1c0000"));
    check("bridged", Some("ganeti:communication:web"), Some("tapa1c000000000"));
}

#[test]
fn what_a_tap_device_can_follows_from_the_parameters() {
    let check = |changes: Value, expected: &str| {
        let mut spec = instance("bridged", "br0");
        spec.hvparams.extend(changes.as_object().unwrap().clone());
        let alias = "ip link set dev tap1 alias rapid-1: nic 2 of instance web.example.com";
        let expected = format!("ip tuntap add dev tap1 mode tap{expected}\n{alias}");
        assert_eq!(text(&create(&spec, 2, "tap1", "rapid-1")), expected);
    };
    check(json!({}), "");
    check(json!({"vnet_hdr": true}), " vnet_hdr");
    check(json!({"vnet_hdr": true, "nic_type": "e1000", "vhost_net": true}), "");
    check(json!({"vnet_hdr": true, "virtio_net_queues": 4}), " vnet_hdr");
    let queues = json!({"vnet_hdr": true, "vhost_net": true, "virtio_net_queues": 4});
    check(queues, " vnet_hdr multi_queue");
    check(json!({"security_model": "user", "security_domain": "kvm"}), " user kvm");
    check(json!({"security_model": "none", "security_domain": "kvm"}), "");
}

#[test]
fn bridges() {
    let plain = Bridge { mtu: 1400, default_pvid: 1, ..Bridge::default() };
    insta::assert_snapshot!("bridge", connected("bridged", "br0", "", Some(&plain)).unwrap());
    let error = connected("bridged", "br0", ".10", Some(&plain)).unwrap_err();
    assert_eq!(
        error,
        "Instance web.example.com NIC 0 configured for VLAN support, but bridge br0 has VLAN filtering disabled"
    );
    assert_eq!(connected("bridged", "br0", "", None).unwrap_err(), "there is no bridge br0");
    let aware = Bridge {
        vlan_filtering: true,
        uplinks: vec!["eth0".into()],
        taken_vlans: vec![(40, "eth0".into())],
        ..plain
    };
    let of = |vlan: &str| connected("bridged", "br0", vlan, Some(&aware));
    insta::assert_snapshot!("bridge_access", of(".10").unwrap());
    insta::assert_snapshot!("bridge_trunk", of(":10:20").unwrap());
    insta::assert_snapshot!("bridge_hybrid", of(".10:20:1").unwrap());
    assert_eq!(of(".40").unwrap_err(), "VLAN 40 is in use by lower interface eth0");
    assert_eq!(of(".4095").unwrap_err(), "Specified VLAN parameter is invalid : .4095");
}

#[test]
fn routes() {
    insta::assert_snapshot!("routed", connected("routed", "", "", None).unwrap());
    insta::assert_snapshot!("routed_by_table", connected("routed", "100", "", None).unwrap());
    let mut nic = instance("routed", "100").nics.remove(0);
    nic.ip = Some("2001:db8::1".into());
    insta::assert_snapshot!("routed_ipv6", text(&connect("web", 0, &nic, "tap1", None).unwrap()));
    nic.ip = None;
    let error = connect("web", 0, &nic, "tap1", None).unwrap_err();
    assert_eq!(error, "Routed NIC but no IP address specified");
    nic.name = Some("ganeti:communication:web".into());
    let steps = connect("web", 0, &nic, "tap1", None).unwrap();
    assert_eq!(text(&steps), "ip link set dev tap1 up");
}

#[test]
fn switches() {
    let check = |vlan: &str, expected: &str| {
        let steps = connected("openvswitch", "sw0", vlan, None).unwrap();
        let tap = "tapa1c000000000";
        assert_eq!(
            steps,
            format!(
                "ip link set dev {tap} up\novs-vsctl --timeout=10 --if-exists del-port {tap} -- add-port sw0 {tap}{expected}"
            )
        );
    };
    check("", "");
    check(".10", " tag=10");
    check("10", " tag=10");
    check(":10:20", " trunks=10,20");
    check(".10:20:30", " tag=10 trunks=20,30 vlan_mode=native-untagged");
    let error = connected("openvswitch", "--db=x", "", None).unwrap_err();
    assert_eq!(error, "link '--db=x' would be taken for an option");
}

#[test]
fn what_outlives_a_tap_device_is_taken_away_with_it() {
    let check = |mode: &str, link: &str, expected: &str| {
        let nic = instance(mode, link).nics.remove(0);
        assert_eq!(text(&disconnect(&nic, "tap1")), expected);
    };
    check("bridged", "br0", "ip link del dev tap1");
    check("routed", "", "ip link del dev tap1");
    check("routed", "100", "ip -4 rule del dev tap1 table 100\nip link del dev tap1");
    check(
        "openvswitch",
        "sw0",
        "ovs-vsctl --timeout=10 --if-exists del-port tap1\nip link del dev tap1",
    );
}

#[test]
fn vlans_are_read() {
    let check = |text: &str, untagged: Option<u16>, tagged: &[u16]| {
        let expected = Vlans { untagged, tagged: tagged.to_vec() };
        assert_eq!(Vlans::parse(text), Ok(expected), "{text}");
    };
    check("", None, &[]);
    check(".10", Some(10), &[]);
    check("10", Some(10), &[]);
    check(":10:20", None, &[10, 20]);
    check(".10:20", Some(10), &[20]);
    for wrong in [".0", ":", ".10:x", "4095"] {
        assert!(Vlans::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn vlan_interfaces_are_read() {
    let table = "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\neth0.10        | 10  | eth0\nlab            | 20  | eth1\n";
    assert_eq!(vlan_interfaces(table), [(10, "eth0".to_owned()), (20, "eth1".to_owned())]);
}
