//! Golden command lines: one per shape of instance that differs.

use model::name::Uuid;
use model::param::{Dict, DiskTemplate, Hypervisor};
use serde_json::json;

use super::super::devices::disk_node;
use super::*;
use crate::spec::DiskSpec;

fn dict(value: Value) -> Dict {
    let Value::Object(dict) = value else { panic!("not an object") };
    dict
}

/// The cluster's defaults, as far as they reach the command line.
fn hvparams() -> Value {
    json!({
        "acpi": true, "boot_order": "disk", "cdrom_image_path": "", "cpu_mask": "all",
        "disk_aio": "threads", "disk_cache": "default", "disk_discard": "ignore",
        "disk_type": "paravirtual", "initrd_path": "", "kernel_args": "ro", "kernel_path": "",
        "kvm_extra": "", "kvm_path": "/usr/bin/kvm", "nic_type": "paravirtual",
        "reboot_behavior": "reboot", "root_path": "/dev/vda1", "scsi_controller_type": "lsi",
        "security_model": "none", "serial_console": true, "serial_speed": 38400, "usb_mouse": "",
        "use_localtime": false, "vga": "", "vnc_bind_address": "",
    })
}

pub(crate) fn instance(changes: Value) -> InstanceSpec {
    let mut hvparams = dict(hvparams());
    hvparams.extend(dict(changes));
    let disk = |index: u64| DiskSpec {
        uuid: Uuid::new(format!("0d15c000-0000-4000-8000-00000000000{index}")),
        name: None,
        iv_name: format!("disk/{index}"),
        dev_type: DiskTemplate::File,
        logical_id: vec![json!("loop"), json!(format!("/srv/file/web/disk{index}"))],
        size_mib: 1024,
        mode: "rw".into(),
        spindles: None,
        nodes: vec![],
        params: Dict::new(),
        children: vec![],
    };
    InstanceSpec {
        name: "web.example.com".into(),
        uuid: Uuid::new("11111111-2222-4333-8444-555555555555"),
        ctime: 0.0,
        mtime: 0.0,
        tags: vec![],
        primary_node: "node1".into(),
        secondary_nodes: vec![],
        os: "tiny".into(),
        hypervisor: Hypervisor::Kvm,
        hvparams,
        beparams: dict(json!({"vcpus": 2, "minmem": 128, "maxmem": 256})),
        osparams: Dict::new(),
        nics: vec![NicSpec {
            uuid: Uuid::new("a1c00000-0000-4000-8000-000000000000"),
            name: None,
            mac: "aa:00:00:12:34:56".into(),
            ip: None,
            mode: "user".into(),
            link: String::new(),
            vlan: String::new(),
            network: None,
        }],
        disks: vec![disk(0)],
        network_port: Some(11005),
    }
}

fn build(spec: &InstanceSpec, accel: Accel) -> Result<Vec<String>> {
    let files = Files {
        run: "/run/r/1111".into(),
        console_log: "/data/log/console/web.example.com.log".into(),
        data_dir: "/data".into(),
    };
    let disks: Vec<PathBuf> =
        spec.disks.iter().map(|d| d.logical_id[1].as_str().unwrap().into()).collect();
    command_line(Path::new("/usr/bin/kvm"), spec, accel, &files, &disks)
}

/// One option per line, with its value.
fn text(changes: Value) -> String {
    let args = build(&instance(changes), Accel::Tcg).unwrap();
    let mut text = String::new();
    for arg in &args {
        if arg.starts_with('-') {
            text.push('\n');
        } else if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(arg);
    }
    text
}

#[test]
fn kernel_from_outside() {
    insta::assert_snapshot!(text(json!({
        "kernel_path": "/os/tiny/kernel", "initrd_path": "/os/tiny/initrd", "root_path": "/dev/vda",
    })));
}

#[test]
fn whole_disk_with_vnc() {
    insta::assert_snapshot!(text(json!({
        "serial_console": false, "vnc_bind_address": "127.0.0.1", "vga": "cirrus", "use_localtime": true,
        "cpu_type": "max", "cpu_cores": 2, "cpu_sockets": 1, "acpi": false, "disk_cache": "none",
        "disk_aio": "native", "disk_discard": "unmap", "kvm_extra": "-smbios 'type=1,serial=a b'",
    })));
}

#[test]
fn cdrom_and_ide() {
    insta::assert_snapshot!(text(json!({
        "boot_order": "cdrom", "cdrom_image_path": "/iso/debian.iso", "disk_type": "ide",
        "nic_type": "e1000", "usb_mouse": "mouse", "vnc_bind_address": "/run/vnc",
        "machine_version": "q35", "disk_cache": "writethrough", "reboot_behavior": "exit",
    })));
}

#[test]
fn network_and_scsi() {
    insta::assert_snapshot!(text(json!({
        "boot_order": "network", "disk_type": "scsi-hd", "scsi_controller_type": "virtio-scsi-pci",
    })));
}

#[test]
fn vnc_over_tls_with_sound_and_usb() {
    insta::assert_snapshot!(text(json!({
        "vnc_bind_address": "::1", "vnc_tls": true, "vnc_x509_path": "/etc/vnc,1", "vnc_x509_verify": true,
        "vnc_password_file": "/etc/vnc-password", "soundhw": "hda,ac97",
        "usb_devices": "keyboard,host:1.2,host:046d:c52b", "use_guest_agent": true, "use_chroot": true,
        "security_model": "user", "security_domain": "nobody",
    })));
}

#[test]
fn spice_with_everything() {
    insta::assert_snapshot!(text(json!({
        "spice_bind": "0.0.0.0", "spice_ip_version": 4, "spice_use_tls": true, "spice_tls_ciphers": "HIGH",
        "spice_password_file": "/etc/spice-password", "spice_image_compression": "auto_lz",
        "spice_jpeg_wan_compression": "auto", "spice_zlib_glz_wan_compression": "always",
        "spice_streaming_video": "filter", "spice_playback_compression": true, "spice_use_vdagent": true,
        "soundhw": "es1370",
    })));
}

#[test]
fn spice_with_little() {
    let plain = text(json!({"spice_bind": "127.0.0.1"}));
    let line = plain.lines().find(|line| line.starts_with("-spice")).unwrap();
    assert_eq!(
        line,
        "-spice addr=127.0.0.1,port=11005,disable-ticketing=on,playback-compression=off,agent-mouse=off"
    );
}

#[test]
fn what_shows_nothing_is_refused() {
    let check = |changes: Value, expected: &str| {
        let error = build(&instance(changes), Accel::Tcg).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(
        json!({"vnc_bind_address": "eth0"}),
        "VNC: The vnc_bind_address parameter must be either a valid IP address, an interface name, or an absolute path",
    );
    check(
        json!({"spice_bind": "eth0"}),
        "SPICE: The spice_bind parameter must be either a valid IP address or interface name",
    );
    check(
        json!({"spice_bind": "::1", "vnc_bind_address": "::1"}),
        "Both SPICE and VNC are configured, but only one of them can be used at a given time",
    );
}

#[test]
fn acceleration_is_chosen() {
    let has = |accel| build(&instance(json!({})), accel).unwrap().join(" ");
    assert!(has(Accel::Kvm).contains("-accel kvm "));
    assert!(has(Accel::Tcg).contains("-accel tcg,tb-size=32 "));
}

#[test]
fn what_is_missing_is_refused_by_name() {
    let check = |changes: Value, part: &str| {
        let error = build(&instance(changes), Accel::Tcg).unwrap_err();
        assert!(matches!(error, NodeError::Unsupported(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    check(json!({"security_model": "pool"}), "security_model");
    check(json!({"soundhw": "ac97,pcspk"}), "soundhw: 'pcspk'");
    check(json!({"usb_devices": "disk:/x"}), "usb_devices: 'disk:/x'");
    check(json!({"disk_type": "mtd"}), "disk_type 'mtd'");
    check(json!({"nic_type": "x"}), "nic_type 'x'");
}

#[test]
fn words_are_split_as_by_a_shell() {
    let check =
        |text, expected: &[&str]| assert_eq!(split_words(text).unwrap(), expected, "{text}");
    check("", &[]);
    check(" -a  b ", &["-a", "b"]);
    check(r#"-x 'a b' "c \" d" e\ f"#, &["-x", "a b", "c \" d", "e f"]);
    check("''", &[""]);
    assert!(split_words("'a").is_err());
}

#[test]
fn cpu_masks() {
    assert_eq!(parse_cpu_mask("all").unwrap(), [None]);
    assert_eq!(parse_cpu_mask("0-2,5").unwrap(), [Some(vec![0, 1, 2, 5])]);
    assert_eq!(parse_cpu_mask("1:all:0").unwrap(), [Some(vec![1]), None, Some(vec![0])]);
    assert!(parse_cpu_mask("2-1").is_err());
    assert!(parse_cpu_mask("x").is_err());
}

#[test]
fn names_fit_into_qemu() {
    assert_eq!(disk_node(&instance(json!({})).disks[0]), "disk-0d15c000000040008000");
}
