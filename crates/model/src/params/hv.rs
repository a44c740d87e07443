//! Hypervisor parameters. Layers: built-in, cluster, operating system, instance.
//!
//! One row per hypervisor and parameter, in the order in which Ganeti checks them (3.0, `PARAMETERS` of each
//! `hypervisor/hv_*.py`); what is shown is sorted by name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use serde_json::Value;

use super::{
    Kind, Lit, Row, check_not_global, fill as lay, force_types, inner, is_norm_abs_path, overlay,
};
use crate::compat::Compat;
use crate::config::Cluster;
use crate::error::{ErrorClass, GanetiError, Result};
use crate::param::{Dict, Hypervisor};
use crate::python;

/// What a value must look like, beside its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    /// Anything.
    Any,
    /// An absolute, normalized path; the node looks for a file there.
    File,
    /// The same, of a directory.
    Dir,
    /// A path or an `http`, `https`, `ftp` or `ftps` URL.
    FileOrUrl,
    OneOf(&'static [&'static str]),
    /// Between the bounds, both included; with what is said otherwise.
    Range(i64, i64, &'static str),
    CpuMask,
    MultiCpuMask,
    /// `4`, `6`, or `0` for either.
    IpVersion,
    /// Letters `a`, `c`, `d`, `n`.
    XenBootOrder,
    Ip4,
}

/// A parameter of one hypervisor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HvRow {
    pub row: Row,
    /// The default in 3.0, where it is another.
    default_30: Option<Lit>,
    /// Whether 3.0 was the last release that had it.
    only_30: bool,
    /// Whether it may not be empty.
    pub required: bool,
    pub check: Check,
    /// What 3.0 checked, where it was something else.
    check_30: Option<Check>,
}

impl HvRow {
    const fn new(name: &'static str, kind: Kind, default: Lit, doc: &'static str) -> Self {
        Self {
            row: Row::new(name, kind, default, doc),
            default_30: None,
            only_30: false,
            required: false,
            check: Check::Any,
            check_30: None,
        }
    }

    const fn text(name: &'static str, default: &'static str, doc: &'static str) -> Self {
        Self::new(name, Kind::Text, Lit::Text(default), doc)
    }

    const fn flag(name: &'static str, default: bool, doc: &'static str) -> Self {
        Self::new(name, Kind::Bool, Lit::Bool(default), doc)
    }

    const fn int(name: &'static str, default: i64, doc: &'static str) -> Self {
        Self::new(name, Kind::Int, Lit::Int(default), doc)
    }

    const fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    const fn required(mut self, check: Check) -> Self {
        self.required = true;
        self.check = check;
        self
    }

    const fn in_30(mut self, default: Lit) -> Self {
        self.default_30 = Some(default);
        self
    }

    const fn checked_in_30(mut self, check: Check) -> Self {
        self.check_30 = Some(check);
        self
    }

    const fn only_in_30(mut self) -> Self {
        self.only_30 = true;
        self
    }

    fn exists(&self, compat: Compat) -> bool {
        !self.only_30 || compat == Compat::V30
    }

    fn default(&self, compat: Compat) -> Value {
        let lit = match compat {
            Compat::V30 => self.default_30.unwrap_or(self.row.default),
            Compat::V31 => self.row.default,
        };
        lit.to_value()
    }
}

const NIC_TYPES: Check = Check::OneOf(&[
    "e1000",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "paravirtual",
    "pcnet",
    "rtl8139",
]);
const DISK_TYPES: Check = Check::OneOf(&[
    "ide",
    "mtd",
    "paravirtual",
    "pflash",
    "scsi",
    "scsi-block",
    "scsi-cd",
    "scsi-generic",
    "scsi-hd",
    "sd",
]);
const LOSSLESS: Check = Check::OneOf(&["auto_glz", "auto_lz", "glz", "lz", "off", "quic"]);
const LOSSY: Check = Check::OneOf(&["always", "auto", "never"]);
const MIGRATION_MODES: &[&str] = &["live", "non-live"];
const REBOOT_BEHAVIORS: Check = Check::OneOf(&["reboot", "exit"]);
const XEN_COMMANDS: Check = Check::OneOf(&["xl", "xm"]);
const PORT: Check = Check::Range(1, 65534, "invalid port number");
const NOT_NEGATIVE: Check = Check::Range(0, i64::MAX, "cannot be negative");
const PCI_SLOTS: Check = Check::Range(0, 32, "The number of PCI slots managed by QEMU (max: 32)");

const MIGRATION_MODE_DOC: &str = "Whether it runs on while it is migrated: live, non-live";
const MIGRATION_PORT_DOC: &str = "Port that a migration comes in at";
const REBOOT_DOC: &str = "What a reboot from inside does: reboot, or exit (stop)";
const CPU_MASK_DOC: &str =
    "Which host CPUs it may use: all, 0-2,5, or one such list per virtual CPU between colons";
const KERNEL_PATH_DOC: &str = "Kernel on the node to boot";
const INITRD_DOC: &str = "Initial RAM disk that goes with the kernel";
const KERNEL_ARGS_DOC: &str = "Arguments of the kernel";
const ROOT_PATH_DOC: &str = "Root device that the kernel is told";
const ACPI_DOC: &str = "Whether ACPI is there";
const LOCALTIME_DOC: &str = "Whether the hardware clock shows local time, not UTC";
const VNC_BIND_DOC: &str = "Address that the VNC server listens at";
const VNC_PASSWORD_DOC: &str = "File that holds the VNC password";
const SOUND_DOC: &str = "Sound card to emulate";
const CDROM_DOC: &str = "Image of the first CD-ROM, path or URL";
const NIC_TYPE_DOC: &str = "Network card to emulate";
const DISK_TYPE_DOC: &str = "Disk interface to emulate";
const BLOCKDEV_DOC: &str = "Prefix of the names of its disk devices";
const CAP_DOC: &str = "Most CPU time it gets, in percent of one CPU; 0 is no limit";
const WEIGHT_DOC: &str = "Share of CPU time relative to other instances";
const VIF_SCRIPT_DOC: &str = "Script that sets its interfaces up";
const CPUID_DOC: &str = "What CPUID answers";
const XEN_CMD_DOC: &str = "Which Xen tool is used: xm, xl";

const KVM: &[HvRow] = &[
    HvRow::text("kvm_path", "/usr/bin/kvm", "The QEMU program").required(Check::File),
    HvRow::text("kernel_path", "/boot/vmlinuz-3-kvmU", KERNEL_PATH_DOC).check(Check::File),
    HvRow::text("initrd_path", "", INITRD_DOC).check(Check::File),
    HvRow::new("root_path", Kind::MaybeText, Lit::Text("/dev/vda1"), ROOT_PATH_DOC),
    HvRow::text("kernel_args", "ro", KERNEL_ARGS_DOC),
    HvRow::flag("acpi", true, ACPI_DOC),
    HvRow::flag("serial_console", true, "Whether there is a serial console"),
    HvRow::int("serial_speed", 38400, "Speed of the serial console"),
    HvRow::text("vnc_bind_address", "", VNC_BIND_DOC),
    HvRow::flag("vnc_tls", false, "Whether VNC is encrypted"),
    HvRow::text("vnc_x509_path", "", "Directory with the VNC server's certificate")
        .check(Check::Dir),
    HvRow::flag("vnc_x509_verify", false, "Whether VNC clients must show a certificate"),
    HvRow::text("vnc_password_file", "", VNC_PASSWORD_DOC).check(Check::File),
    HvRow::text("spice_bind", "", "Address or interface that the SPICE server listens at"),
    HvRow::int(
        "spice_ip_version",
        0,
        "Which address of the interface SPICE takes: 4, 6, 0 for either",
    )
    .check(Check::IpVersion),
    HvRow::text("spice_password_file", "", "File that holds the SPICE password").check(Check::File),
    HvRow::text("spice_image_compression", "", "SPICE: lossless image compression").check(LOSSLESS),
    HvRow::text("spice_jpeg_wan_compression", "", "SPICE: JPEG compression over slow links")
        .check(LOSSY),
    HvRow::text("spice_zlib_glz_wan_compression", "", "SPICE: GLZ compression over slow links")
        .check(LOSSY),
    HvRow::text("spice_streaming_video", "", "SPICE: how videos are detected")
        .check(Check::OneOf(&["all", "filter", "off"])),
    HvRow::flag("spice_playback_compression", true, "SPICE: whether audio is compressed"),
    HvRow::flag("spice_use_tls", false, "SPICE: whether it is encrypted"),
    HvRow::text("spice_tls_ciphers", "HIGH:-DES:-3DES:-EXPORT:-DH", "SPICE: ciphers taken"),
    HvRow::flag("spice_use_vdagent", true, "SPICE: whether the agent inside is talked to"),
    HvRow::text("floppy_image_path", "", "Image of the floppy disk").check(Check::File),
    HvRow::text("cdrom_image_path", "", CDROM_DOC).check(Check::FileOrUrl),
    HvRow::text("cdrom2_image_path", "", "Image of the second CD-ROM, path or URL")
        .check(Check::FileOrUrl),
    HvRow::text("boot_order", "disk", "What it boots from")
        .required(Check::OneOf(&["cdrom", "disk", "floppy", "network"])),
    HvRow::text("nic_type", "paravirtual", NIC_TYPE_DOC).required(NIC_TYPES),
    HvRow::text("disk_type", "paravirtual", DISK_TYPE_DOC).required(DISK_TYPES),
    HvRow::text("scsi_controller_type", "lsi", "SCSI controller to emulate")
        .required(Check::OneOf(&["lsi", "megasas", "virtio-scsi-pci"])),
    HvRow::text("disk_discard", "ignore", "What discarding blocks does: ignore, unmap")
        .in_30(Lit::Text("default"))
        .check(Check::OneOf(&["default", "ignore", "unmap"])),
    HvRow::text("cdrom_disk_type", "", "Disk interface of the CD-ROMs").check(DISK_TYPES),
    HvRow::text("usb_mouse", "", "USB mouse to emulate").check(Check::OneOf(&["mouse", "tablet"])),
    HvRow::text("keymap", "", "Keyboard layout of VNC"),
    HvRow::int("migration_port", 8102, MIGRATION_PORT_DOC).required(PORT),
    HvRow::int("migration_bandwidth", 32, "Bandwidth of a migration, MiB/s").required(NOT_NEGATIVE),
    HvRow::int("migration_downtime", 30, "Longest pause of a live migration, ms")
        .required(NOT_NEGATIVE),
    HvRow::text("migration_mode", "live", MIGRATION_MODE_DOC)
        .required(Check::OneOf(MIGRATION_MODES)),
    HvRow::flag("use_guest_agent", false, "Whether there is a channel to an agent inside"),
    HvRow::flag("use_localtime", false, LOCALTIME_DOC),
    HvRow::text("disk_cache", "default", "How disks are cached").required(Check::OneOf(&[
        "default",
        "none",
        "writeback",
        "writethrough",
    ])),
    HvRow::text("disk_aio", "threads", "How disks are read and written: threads, native, io_uring")
        .check(Check::OneOf(&["io_uring", "native", "threads"]))
        .checked_in_30(Check::OneOf(&["native", "threads"])),
    HvRow::text("security_model", "none", "Which user QEMU runs as: none, user, pool")
        .required(Check::OneOf(&["none", "pool", "user"])),
    HvRow::text("security_domain", "", "The user, when the security model is user"),
    HvRow::text("kvm_flag", "", "Whether hardware virtualisation is used")
        .check(Check::OneOf(&["disabled", "enabled"])),
    HvRow::flag("vhost_net", true, "Whether the kernel carries its network traffic")
        .in_30(Lit::Bool(false)),
    HvRow::int("virtio_net_queues", 1, "Queues of a paravirtual network card").check(Check::Range(
        1,
        8,
        "invalid number of queues",
    )),
    HvRow::flag("use_chroot", false, "Whether QEMU is locked into an empty directory"),
    HvRow::flag("user_shutdown", false, "Whether it may shut itself down"),
    HvRow::text("mem_path", "", "Directory of huge pages that its memory comes from")
        .check(Check::Dir),
    HvRow::text("reboot_behavior", "reboot", REBOOT_DOC).required(REBOOT_BEHAVIORS),
    HvRow::text("cpu_mask", "all", CPU_MASK_DOC).check(Check::MultiCpuMask),
    HvRow::text("cpu_type", "", "CPU to emulate"),
    HvRow::int("cpu_cores", 0, "Cores per socket it sees; 0 leaves it to QEMU").check(NOT_NEGATIVE),
    HvRow::int("cpu_threads", 0, "Threads per core it sees; 0 leaves it to QEMU")
        .check(NOT_NEGATIVE),
    HvRow::int("cpu_sockets", 0, "Sockets it sees; 0 leaves it to QEMU").check(NOT_NEGATIVE),
    HvRow::text("soundhw", "", SOUND_DOC),
    HvRow::text("usb_devices", "", "USB devices to emulate or pass through"),
    HvRow::text("vga", "", "Graphics card to emulate"),
    HvRow::text("kvm_extra", "", "Further arguments of QEMU"),
    HvRow::text("machine_version", "", "Machine type of QEMU"),
    HvRow::text("migration_caps", "", "Migration capabilities to switch on, between colons"),
    HvRow::int("kvm_pci_reservations", 12, "PCI slots left for QEMU's own devices")
        .check(PCI_SLOTS),
    HvRow::flag("vnet_hdr", true, "Whether network packets keep their virtio header"),
];

const FAKE: &[HvRow] = &[HvRow::text("migration_mode", "live", MIGRATION_MODE_DOC)
    .required(Check::OneOf(MIGRATION_MODES))];

const CHROOT: &[HvRow] =
    &[HvRow::text("init_script", "/ganeti-chroot", "Script that starts it").required(Check::File)];

const LXC: &[HvRow] = &[
    HvRow::text("cpu_mask", "", CPU_MASK_DOC).check(Check::CpuMask),
    HvRow::text(
        "devices",
        "c 1:3 rw,c 1:5 rw,c 1:7 rw,c 1:8 rw,c 1:9 rw,c 1:10 rw,c 5:0 rw,c 5:1 rw,c 5:2 rw,c 136:* rw",
        "Devices it may use",
    ),
    HvRow::text(
        "drop_capabilities",
        "mac_override,sys_boot,sys_module,sys_time,sys_admin",
        "Capabilities taken from it",
    ),
    HvRow::text("extra_cgroups", "", "Further cgroup controllers"),
    HvRow::text("extra_config", "", "Further lines of its configuration"),
    HvRow::int("num_ttys", 6, "Number of terminals").required(NOT_NEGATIVE),
    HvRow::int("startup_timeout", 30, "How long it may take to start, in seconds")
        .check(NOT_NEGATIVE),
];

const XEN_PVM: &[HvRow] = &[
    HvRow::flag("use_bootloader", false, "Whether a boot loader finds the kernel on its disk"),
    HvRow::text("bootloader_path", "", "The boot loader").check(Check::File),
    HvRow::text("bootloader_args", "", "Arguments of the boot loader"),
    HvRow::text("kernel_path", "/boot/vmlinuz-3-xenU", KERNEL_PATH_DOC).required(Check::File),
    HvRow::text("initrd_path", "", INITRD_DOC).check(Check::File),
    HvRow::new("root_path", Kind::MaybeText, Lit::Text("/dev/xvda1"), ROOT_PATH_DOC),
    HvRow::text("kernel_args", "ro", KERNEL_ARGS_DOC),
    HvRow::int("migration_port", 8002, MIGRATION_PORT_DOC).required(PORT),
    HvRow::text("migration_mode", "live", MIGRATION_MODE_DOC)
        .required(Check::OneOf(MIGRATION_MODES)),
    HvRow::text("blockdev_prefix", "sd", BLOCKDEV_DOC),
    HvRow::text("reboot_behavior", "reboot", REBOOT_DOC).required(REBOOT_BEHAVIORS),
    HvRow::text("cpu_mask", "all", CPU_MASK_DOC).check(Check::MultiCpuMask),
    HvRow::int("cpu_cap", 0, CAP_DOC).check(NOT_NEGATIVE),
    HvRow::int("cpu_weight", 256, WEIGHT_DOC).check(Check::Range(1, 65535, "invalid weight")),
    HvRow::text("vif_script", "", VIF_SCRIPT_DOC).check(Check::File),
    HvRow::text("xen_cmd", "xm", XEN_CMD_DOC).required(XEN_COMMANDS).only_in_30(),
    HvRow::text("cpuid", "", CPUID_DOC),
    HvRow::text("soundhw", "", SOUND_DOC),
];

const XEN_HVM: &[HvRow] = &[
    HvRow::flag("acpi", true, ACPI_DOC),
    HvRow::text(
        "boot_order",
        "cd",
        "What it boots from, in order: a floppy, c disk, d CD-ROM, n network",
    )
    .required(Check::XenBootOrder),
    HvRow::text("cdrom_image_path", "", CDROM_DOC).check(Check::File),
    HvRow::text("disk_type", "paravirtual", DISK_TYPE_DOC)
        .required(Check::OneOf(&["ioemu", "paravirtual"])),
    HvRow::text("nic_type", "rtl8139", NIC_TYPE_DOC).required(Check::OneOf(&[
        "e1000",
        "ne2k_isa",
        "ne2k_pci",
        "paravirtual",
        "rtl8139",
    ])),
    HvRow::flag("pae", true, "Whether physical address extension is there"),
    HvRow::text("vnc_bind_address", "0.0.0.0", VNC_BIND_DOC).check(Check::Ip4),
    HvRow::text("kernel_path", "/usr/lib/xen/boot/hvmloader", KERNEL_PATH_DOC)
        .required(Check::File),
    HvRow::text("device_model", "/usr/lib/xen/bin/qemu-dm", "The device emulator")
        .required(Check::File),
    HvRow::text("vnc_password_file", "/etc/ganeti/vnc-cluster-password", VNC_PASSWORD_DOC)
        .required(Check::File),
    HvRow::int("migration_port", 8002, MIGRATION_PORT_DOC).required(PORT),
    HvRow::text("migration_mode", "non-live", MIGRATION_MODE_DOC)
        .required(Check::OneOf(MIGRATION_MODES)),
    HvRow::flag("use_localtime", false, LOCALTIME_DOC),
    HvRow::text("blockdev_prefix", "hd", BLOCKDEV_DOC),
    HvRow::text("pci_pass", "", "PCI devices passed through"),
    HvRow::text("reboot_behavior", "reboot", REBOOT_DOC).required(REBOOT_BEHAVIORS),
    HvRow::text("cpu_mask", "all", CPU_MASK_DOC).check(Check::MultiCpuMask),
    HvRow::int("cpu_cap", 0, CAP_DOC),
    HvRow::int("cpu_weight", 256, WEIGHT_DOC).check(Check::Range(1, 65534, "invalid weight")),
    HvRow::text("vif_type", "ioemu", "Kind of network interface")
        .check(Check::OneOf(&["ioemu", "vif"])),
    HvRow::text("vif_script", "", VIF_SCRIPT_DOC).check(Check::File),
    HvRow::flag("viridian", false, "Whether Hyper-V's interface is offered"),
    HvRow::text("xen_cmd", "xm", XEN_CMD_DOC).required(XEN_COMMANDS).only_in_30(),
    HvRow::text("cpuid", "", CPUID_DOC),
    HvRow::text("soundhw", "", SOUND_DOC),
];

/// The parameters of a hypervisor, in the order in which they are checked.
pub fn table(hypervisor: Hypervisor, compat: Compat) -> impl Iterator<Item = &'static HvRow> {
    all_rows(hypervisor).iter().filter(move |row| row.exists(compat))
}

fn all_rows(hypervisor: Hypervisor) -> &'static [HvRow] {
    match hypervisor {
        Hypervisor::Chroot => CHROOT,
        Hypervisor::Fake => FAKE,
        Hypervisor::Kvm => KVM,
        Hypervisor::Lxc => LXC,
        Hypervisor::XenHvm => XEN_HVM,
        Hypervisor::XenPvm => XEN_PVM,
    }
}

/// The names of all hypervisors' parameters with their types, sorted.
pub fn all_kinds(compat: Compat) -> Vec<(&'static str, Kind)> {
    let rows = Hypervisor::ALL.iter().flat_map(|hypervisor| table(*hypervisor, compat));
    let mut kinds: Vec<(&str, Kind)> = rows.map(|row| (row.row.name, row.row.kind)).collect();
    kinds.sort_by_key(|(name, _)| *name);
    kinds.dedup_by_key(|(name, _)| *name);
    kinds
}

/// The parameters that only the cluster may set.
pub fn globals(compat: Compat) -> &'static [&'static str] {
    match compat {
        Compat::V30 => &["migration_bandwidth", "migration_mode", "migration_port", "xen_cmd"],
        Compat::V31 => &["migration_bandwidth", "migration_mode", "migration_port"],
    }
}

/// The built-in defaults, sorted by name.
pub fn defaults(hypervisor: Hypervisor, compat: Compat) -> Dict {
    static DEFAULTS: LazyLock<HashMap<(Hypervisor, Compat), Dict>> = LazyLock::new(|| {
        let releases = [Compat::V30, Compat::V31];
        let all = Hypervisor::ALL.iter().flat_map(|one| releases.map(|compat| (*one, compat)));
        all.map(|(one, compat)| ((one, compat), sorted_defaults(one, compat))).collect()
    });
    DEFAULTS.get(&(hypervisor, compat)).cloned().unwrap_or_default()
}

fn sorted_defaults(hypervisor: Hypervisor, compat: Compat) -> Dict {
    let mut defaults: Dict = table(hypervisor, compat)
        .map(|row| (row.row.name.to_owned(), row.default(compat)))
        .collect();
    defaults.sort_keys();
    defaults
}

/// Built-in < cluster.
pub fn fill_cluster(cluster: &Cluster, hypervisor: Hypervisor, compat: Compat) -> Dict {
    let mut filled = defaults(hypervisor, compat);
    overlay(&mut filled, &cluster.hvparams, hypervisor.as_str());
    filled
}

/// Built-in < cluster, of every hypervisor, as `/2/info` shows them.
pub fn fill_all(cluster: &Cluster, compat: Compat) -> Dict {
    let each = |hypervisor: &Hypervisor| {
        let filled = fill_cluster(cluster, *hypervisor, compat);
        (hypervisor.as_str().to_owned(), Value::Object(filled))
    };
    Hypervisor::ALL.iter().map(each).collect()
}

/// Built-in < cluster < operating system < instance (Ganeti 3.0, `objects.py` `Cluster.SimpleFillHV`). The operating system
/// is looked up with its variant.
pub fn fill(
    cluster: &Cluster,
    hypervisor: Hypervisor,
    os: &str,
    overrides: &Dict,
    compat: Compat,
) -> Dict {
    let mut filled = fill_cluster(cluster, hypervisor, compat);
    if let Some(by_hypervisor) = inner(&cluster.os_hvp, os) {
        overlay(&mut filled, by_hypervisor, hypervisor.as_str());
    }
    lay(&filled, overrides)
}

/// The same without the parameters that only the cluster may set, as the lists show an instance's.
pub fn fill_without_globals(
    cluster: &Cluster,
    hypervisor: Hypervisor,
    os: &str,
    overrides: &Dict,
    compat: Compat,
) -> Dict {
    let mut filled = fill(cluster, hypervisor, os, overrides, compat);
    let globals = globals(compat);
    filled.retain(|name, _| !globals.contains(&name.as_str()));
    filled
}

/// Forces types; names of any hypervisor are known. With `allow_default`, values of `default` stay.
pub fn force(params: &mut Dict, compat: Compat, allow_default: bool) -> Result<()> {
    let kind = |name: &str| {
        let rows = Hypervisor::ALL.iter().flat_map(|hypervisor| table(*hypervisor, compat));
        rows.map(|row| row.row).find(|row| row.name == name).map(|row| row.kind)
    };
    let allowed: &[&str] = if allow_default { &[super::VALUE_DEFAULT] } else { &[] };
    force_types(params, kind, allowed)
}

/// Refuses what only the cluster may set.
pub fn check_instance_level(params: &Dict, compat: Compat) -> Result<()> {
    check_not_global(params, globals(compat), "hypervisor", "instance", "cluster")
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(GanetiError::new(ErrorClass::HypervisorError, text))
}

/// Checks filled parameters without looking at any node (Ganeti 3.0, `CheckParameterSyntax` of `hypervisor/hv_base.py` and of
/// the hypervisors).
pub fn check_syntax(hypervisor: Hypervisor, filled: &Dict, compat: Compat) -> Result<()> {
    for name in filled.keys() {
        if !table(hypervisor, compat).any(|row| row.row.name == name) {
            return refuse(format!("Parameter '{name}' is not supported"));
        }
    }
    for row in table(hypervisor, compat) {
        check_row(row, filled, compat)?;
    }
    if hypervisor == Hypervisor::Kvm { check_kvm(filled) } else { Ok(()) }
}

fn check_row(row: &HvRow, filled: &Dict, compat: Compat) -> Result<()> {
    let name = row.row.name;
    let Some(value) = filled.get(name) else {
        return refuse(format!("Parameter '{name}' is missing"));
    };
    if value.is_null() || value == "" {
        if row.required {
            return refuse(format!("Parameter '{name}' is required but is currently not defined"));
        }
        return Ok(());
    }
    let check = match compat {
        Compat::V30 => row.check_30.unwrap_or(row.check),
        Compat::V31 => row.check,
    };
    match complaint(check, value) {
        None => Ok(()),
        Some(what) => refuse(format!(
            "Parameter '{name}' fails syntax check: {what} (current value: '{}')",
            python::str(value)
        )),
    }
}

/// What is wrong with a value, if anything.
fn complaint(check: Check, value: &Value) -> Option<String> {
    let text = value.as_str().unwrap_or("");
    let is_url = || {
        ["http://", "https://", "ftp://", "ftps://"].iter().any(|scheme| text.starts_with(scheme))
    };
    let (good, what) = match check {
        Check::Any => return None,
        Check::File | Check::Dir => (is_norm_abs_path(text), "must be an absolute normalized path"),
        Check::FileOrUrl => {
            (is_norm_abs_path(text) || is_url(), "must be an absolute normalized path or a URL")
        }
        Check::OneOf(MIGRATION_MODES) => {
            (MIGRATION_MODES.contains(&text), "invalid migration mode")
        }
        Check::OneOf(known) => {
            let known_value = known.contains(&text);
            return (!known_value)
                .then(|| format!("The value must be one of: {}", known.join(", ")));
        }
        Check::Range(low, high, what) => {
            (value.as_i64().is_some_and(|value| (low..=high).contains(&value)), what)
        }
        Check::CpuMask => (is_cpu_mask(text), "CPU mask definition is not well-formed"),
        Check::MultiCpuMask => (
            text.split(':').all(|mask| mask == "all" || mask.is_empty() || is_cpu_mask(mask)),
            "Multiple CPU mask definition is not well-formed",
        ),
        Check::IpVersion => {
            (matches!(value.as_i64(), Some(0 | 4 | 6)), "The SPICE IP version should be 4 or 6")
        }
        Check::XenBootOrder => (
            // Ganeti: only the ends are looked at (3.0, hv_xen.py strips the letters).
            text.trim_matches(['a', 'c', 'd', 'n']).is_empty(),
            "Invalid boot order specified, must be one or more of [acdn]",
        ),
        Check::Ip4 => {
            (text.parse::<Ipv4Addr>().is_ok(), "VNC bind address is not a valid IP address")
        }
    };
    (!good).then(|| what.to_owned())
}

/// A list of CPUs: numbers and ranges between commas (Ganeti 3.0, `utils.ParseCpuMask`).
fn is_cpu_mask(mask: &str) -> bool {
    mask.split(',').all(|range| {
        let bounds: Vec<Option<i128>> = range.split('-').map(python::int).collect();
        match bounds.as_slice() {
            [Some(_)] => true,
            [Some(low), Some(high)] => low <= high,
            _ => false,
        }
    })
}

/// Speeds of a serial line (Ganeti 3.0, `constants.VALID_SERIAL_SPEEDS`).
const SERIAL_SPEEDS: &[i64] = &[
    75, 110, 300, 600, 1200, 1800, 2400, 4800, 9600, 14400, 19200, 28800, 38400, 57600, 115_200,
    230_400, 345_600, 460_800,
];

/// The SPICE parameters that mean nothing without an address.
const SPICE_DEPENDENT: &[&str] = &[
    "spice_ip_version",
    "spice_password_file",
    "spice_image_compression",
    "spice_jpeg_wan_compression",
    "spice_zlib_glz_wan_compression",
    "spice_streaming_video",
    "spice_use_tls",
];

/// What parameters of KVM demand of each other (Ganeti 3.0, `hypervisor/hv_kvm/validation.py`).
fn check_kvm(filled: &Dict) -> Result<()> {
    let text = |name: &str| filled.get(name).and_then(Value::as_str).unwrap_or("");
    let int = |name: &str| filled.get(name).and_then(Value::as_i64).unwrap_or(0);
    let set = |name: &str| filled.get(name).is_some_and(python::truthy);

    if text("boot_order") == "cdrom" && !set("cdrom_image_path") {
        return refuse("Cannot boot from cdrom without an ISO path");
    }
    if set("kernel_path") && !set("root_path") {
        return refuse("Need a root partition for the instance, if a kernel is defined");
    }
    match text("security_model") {
        "user" if !set("security_domain") => {
            return refuse("A security domain (user to run kvm as) must be specified");
        }
        "none" | "pool" if set("security_domain") => {
            return refuse(
                "Cannot have a security domain when the security model is 'none' or 'pool'",
            );
        }
        _ => {}
    }
    if set("serial_console") && !SERIAL_SPEEDS.contains(&int("serial_speed")) {
        let known: Vec<String> = SERIAL_SPEEDS.iter().map(i64::to_string).collect();
        return refuse(format!(
            "Invalid serial console speed, must be one of: {}",
            known.join(", ")
        ));
    }
    if set("vnc_x509_verify") && !set("vnc_x509_path") {
        return refuse("vnc_x509_path must be defined, if vnc_x509_verify is");
    }
    check_spice(text("spice_bind"), int("spice_ip_version"), set)?;
    if text("disk_aio") == "native" && text("disk_cache") != "none" {
        return refuse(
            "When 'disk_aio' is set to 'native', the only supported value for 'disk_cache' is 'none'.",
        );
    }
    Ok(())
}

fn check_spice(bind: &str, version: i64, set: impl Fn(&str) -> bool) -> Result<()> {
    if bind.is_empty() {
        return match SPICE_DEPENDENT.iter().find(|name| set(name)) {
            Some(name) => refuse(format!("SPICE: {name} requires spice_bind to be set")),
            None => Ok(()),
        };
    }
    let (family, mismatch) = match bind.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => ("IPv4", version != 4),
        Ok(IpAddr::V6(_)) => ("IPv6", version != 6),
        Err(_) => ("", false),
    };
    if version != 0 && mismatch {
        return refuse(format!(
            "SPICE: Got an {family} address ({bind}), but the specified IP version is {version}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kvm_with(changes: &Value) -> Result<(), String> {
        let mut filled = defaults(Hypervisor::Kvm, Compat::V31);
        filled.extend(changes.as_object().unwrap().clone());
        check_syntax(Hypervisor::Kvm, &filled, Compat::V31).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_pass_their_own_checks() {
        for compat in [Compat::V30, Compat::V31] {
            for hypervisor in Hypervisor::ALL {
                let defaults = defaults(*hypervisor, compat);
                assert_eq!(check_syntax(*hypervisor, &defaults, compat), Ok(()));
                let mut forced = defaults.clone();
                force(&mut forced, compat, false).unwrap();
                assert_eq!(forced, defaults);
            }
        }
    }

    #[test]
    fn kvm_values_are_checked() {
        let check = |changes: Value, expected: &str| {
            assert_eq!(kvm_with(&changes).err().as_deref().unwrap_or(""), expected, "{changes}");
        };
        check(json!({"init_script": "/x"}), "Parameter 'init_script' is not supported");
        check(
            json!({"boot_order": "tape"}),
            "Parameter 'boot_order' fails syntax check: The value must be one of: cdrom, disk, floppy, network \
             (current value: 'tape')",
        );
        check(
            json!({"boot_order": ""}),
            "Parameter 'boot_order' is required but is currently not defined",
        );
        check(json!({"boot_order": "cdrom"}), "Cannot boot from cdrom without an ISO path");
        check(json!({"boot_order": "cdrom", "cdrom_image_path": "https://x/y.iso"}), "");
        check(
            json!({"kernel_path": "vmlinuz"}),
            "Parameter 'kernel_path' fails syntax check: must be an absolute normalized path (current value: \
             'vmlinuz')",
        );
        check(
            json!({"root_path": null}),
            "Need a root partition for the instance, if a kernel is defined",
        );
        check(json!({"root_path": "", "kernel_path": ""}), "");
        check(
            json!({"security_model": "user"}),
            "A security domain (user to run kvm as) must be specified",
        );
        check(
            json!({"security_domain": "me"}),
            "Cannot have a security domain when the security model is 'none' or 'pool'",
        );
        check(
            json!({"migration_port": 65535}),
            "Parameter 'migration_port' fails syntax check: invalid port number (current value: '65535')",
        );
        check(
            json!({"migration_mode": "odd"}),
            "Parameter 'migration_mode' fails syntax check: invalid migration mode (current value: 'odd')",
        );
        check(
            json!({"virtio_net_queues": 9}),
            "Parameter 'virtio_net_queues' fails syntax check: invalid number of queues (current value: '9')",
        );
        check(json!({"cpu_mask": "0-2,5:all:1"}), "");
        check(
            json!({"cpu_mask": "2-1"}),
            "Parameter 'cpu_mask' fails syntax check: Multiple CPU mask definition is not well-formed (current \
             value: '2-1')",
        );
        check(
            json!({"serial_speed": 1}),
            "Invalid serial console speed, must be one of: 75, 110, 300, 600, 1200, 1800, 2400, 4800, 9600, 14400, \
             19200, 28800, 38400, 57600, 115200, 230400, 345600, 460800",
        );
        check(json!({"serial_speed": 1, "serial_console": false}), "");
        check(
            json!({"vnc_x509_verify": true}),
            "vnc_x509_path must be defined, if vnc_x509_verify is",
        );
        check(json!({"spice_use_tls": true}), "SPICE: spice_use_tls requires spice_bind to be set");
        check(
            json!({"spice_bind": "127.0.0.1", "spice_ip_version": 6}),
            "SPICE: Got an IPv4 address (127.0.0.1), but the specified IP version is 6",
        );
        check(json!({"spice_bind": "::1", "spice_ip_version": 6, "spice_use_tls": true}), "");
        check(
            json!({"disk_aio": "native"}),
            "When 'disk_aio' is set to 'native', the only supported value for 'disk_cache' is 'none'.",
        );
        check(json!({"disk_aio": "io_uring"}), "");
        check(
            json!({"kvm_pci_reservations": 33}),
            "Parameter 'kvm_pci_reservations' fails syntax check: The number of PCI slots managed by QEMU (max: 32) \
             (current value: '33')",
        );
    }

    #[test]
    fn releases_differ() {
        let v30 = defaults(Hypervisor::XenPvm, Compat::V30);
        assert_eq!(v30["xen_cmd"], "xm");
        assert!(!defaults(Hypervisor::XenPvm, Compat::V31).contains_key("xen_cmd"));
        let mut filled = defaults(Hypervisor::Kvm, Compat::V30);
        filled.insert("disk_aio".into(), json!("io_uring"));
        assert!(check_syntax(Hypervisor::Kvm, &filled, Compat::V30).is_err());
    }

    #[test]
    fn globals_stay_with_the_cluster() {
        let params = json!({"migration_port": 1, "acpi": true});
        let error = check_instance_level(params.as_object().unwrap(), Compat::V31).unwrap_err();
        assert_eq!(
            error,
            GanetiError::wrong_input(
                "The following hypervisor parameters are global and cannot be customized at instance level, please \
                 modify them at cluster level: migration_port"
            )
        );
    }
}
