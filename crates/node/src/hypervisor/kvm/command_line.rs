//! The command line of QEMU, as a pure function of an instance and of where its files lie. Golden tests hold its form.
//!
//! What a hypervisor parameter asks for and QEMU cannot be given here yet is refused by name, never left out silently.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::devices::{disk_backend, disk_device, is_scsi};
use super::display::display;
use super::nics::{card, netdev, without_boot_code};
use crate::spec::{InstanceSpec, NicSpec};
use crate::{NodeError, Result};

/// Ports of VNC displays are counted from here.
pub(crate) const VNC_BASE_PORT: u16 = 5900;
/// Under emulation, how much memory translated code may take, in MiB: a fifth of QEMU's default, and as fast.
const TCG_CACHE_MIB: u64 = 32;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The processor, by `/dev/kvm`.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Where the files of one QEMU are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The directory of sockets and of the process id.
    pub(crate) run: PathBuf,
    /// What the guest prints on its serial console.
    pub(crate) console_log: PathBuf,
    /// Where the server keeps its things.
    pub(crate) data_dir: PathBuf,
}

impl Files {
    /// The monitor that the driver holds.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.run.join("qmp")
    }

    /// A second monitor, for whoever wants to look.
    pub(crate) fn qmp_debug(&self) -> PathBuf {
        self.run.join("qmp2")
    }

    pub(crate) fn serial(&self) -> PathBuf {
        self.run.join("serial")
    }

    /// Where viewers of the console connect.
    pub(crate) fn console(&self) -> PathBuf {
        self.run.join("console")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.run.join("pid")
    }

    /// Where the agent inside the guest is spoken to.
    pub(crate) fn agent(&self) -> PathBuf {
        self.run.join("agent")
    }

    /// The empty directory that a confined QEMU sees as its root.
    pub(crate) fn chroot(&self) -> PathBuf {
        self.run.join("root")
    }

    /// All that QEMU or the driver may leave behind.
    pub(crate) fn leftovers(&self) -> [PathBuf; 6] {
        [self.qmp(), self.qmp_debug(), self.serial(), self.console(), self.pid(), self.agent()]
    }
}

/// Collects arguments.
#[derive(Default)]
pub(crate) struct Args(Vec<String>);

impl Args {
    pub(crate) fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }
}

/// A path inside an option: a comma would begin the next one, so it is doubled.
pub(crate) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

pub(crate) fn unsupported(text: impl Into<String>) -> NodeError {
    NodeError::Unsupported(text.into())
}

fn hv_u64(spec: &InstanceSpec, name: &str) -> u64 {
    spec.hvparams.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// What boots first. A kernel given from outside makes the order meaningless.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    Kernel,
    Disk,
    Cdrom,
    Floppy,
    Network,
}

fn boot(spec: &InstanceSpec) -> Result<Boot> {
    if !spec.hv("kernel_path").is_empty() {
        return Ok(Boot::Kernel);
    }
    match spec.hv("boot_order") {
        "" | "disk" => Ok(Boot::Disk),
        "cdrom" => Ok(Boot::Cdrom),
        "floppy" => Ok(Boot::Floppy),
        "network" => Ok(Boot::Network),
        other => {
            Err(unsupported(format!("boot_order '{other}' is not known to the kvm hypervisor")))
        }
    }
}

/// The whole command line, the program first. `disks` are the files of the instance's disks, in order.
pub(crate) fn command_line(
    program: &Path,
    spec: &InstanceSpec,
    accel: Accel,
    files: &Files,
    disks: &[PathBuf],
) -> Result<Vec<String>> {
    let boot = boot(spec)?;
    let mut args = Args(vec![program.to_string_lossy().into_owned()]);
    args.pair("-name", format!("guest={},debug-threads=on", spec.name));
    args.pair("-uuid", spec.uuid.as_str());
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    machine(&mut args, spec, accel);
    args.flag("-daemonize");
    args.pair("-pidfile", files.pid().to_string_lossy());
    args.flag("-S");
    // A guest that powers off leaves QEMU halted, so that this can still be read later.
    args.flag("-no-shutdown");
    for socket in [files.qmp(), files.qmp_debug()] {
        args.pair("-qmp", format!("unix:{},server=on,wait=off", escaped(&socket)));
    }
    if spec.hv_flag("serial_console") {
        let chardev = format!(
            "socket,id=serial0,path={},server=on,wait=off,logfile={},logappend=on",
            escaped(&files.serial()),
            escaped(&files.console_log)
        );
        args.pair("-chardev", chardev);
        args.pair("-serial", "chardev:serial0");
    }
    display(&mut args, spec, &files.data_dir)?;
    guest_agent(&mut args, spec, files);
    confinement(&mut args, spec, files)?;
    args.pair("-device", "virtio-balloon-pci,id=balloon0");
    kernel(&mut args, spec, boot);
    removable(&mut args, spec, boot);
    drives(&mut args, spec, disks, boot)?;
    for (index, nic) in spec.nics.iter().enumerate() {
        interface(&mut args, spec, nic, index, boot)?;
    }
    args.0.extend(split_words(spec.hv("kvm_extra"))?);
    Ok(args.0)
}

/// Who QEMU runs as, and what it can see, once it has opened its files.
fn confinement(args: &mut Args, spec: &InstanceSpec, files: &Files) -> Result<()> {
    match spec.hv("security_model") {
        "" | "none" => {}
        "user" => args.pair("-runas", spec.hv("security_domain")),
        other => {
            return Err(unsupported(format!(
                "hypervisor parameter security_model: '{other}' is not there yet, only 'none' and 'user'"
            )));
        }
    }
    if spec.hv_flag("use_chroot") {
        args.pair("-chroot", files.chroot().to_string_lossy());
    }
    Ok(())
}

/// The channel to an agent inside the guest.
fn guest_agent(args: &mut Args, spec: &InstanceSpec, files: &Files) {
    if spec.hv_flag("use_guest_agent") {
        let socket = escaped(&files.agent());
        args.pair("-chardev", format!("socket,id=qga0,path={socket},server=on,wait=off"));
        args.pair("-device", "virtio-serial-pci,id=agent");
        args.pair("-device", "virtserialport,bus=agent.0,chardev=qga0,name=org.qemu.guest_agent.0");
    }
}

fn machine(args: &mut Args, spec: &InstanceSpec, accel: Accel) {
    let version = spec.hv("machine_version");
    let mut machine = if version.is_empty() { "pc" } else { version }.to_owned();
    if spec.hvparams.get("acpi") == Some(&Value::Bool(false)) {
        machine.push_str(",acpi=off");
    }
    args.pair("-machine", machine);
    match accel {
        Accel::Kvm => args.pair("-accel", "kvm"),
        Accel::Tcg => args.pair("-accel", format!("tcg,tb-size={TCG_CACHE_MIB}")),
    }
    if !spec.hv("cpu_type").is_empty() {
        args.pair("-cpu", spec.hv("cpu_type"));
    }
    let mut smp = spec.be("vcpus").max(1).to_string();
    for (option, name) in
        [("sockets", "cpu_sockets"), ("cores", "cpu_cores"), ("threads", "cpu_threads")]
    {
        let count = hv_u64(spec, name);
        if count > 0 {
            smp.push_str(&format!(",{option}={count}"));
        }
    }
    args.pair("-smp", smp);
    args.pair("-m", spec.be("maxmem").to_string());
    if !spec.hv("mem_path").is_empty() {
        args.pair("-mem-path", spec.hv("mem_path"));
        args.flag("-mem-prealloc");
    }
    if spec.hv_flag("use_localtime") {
        args.pair("-rtc", "base=localtime");
    }
    if spec.hv("reboot_behavior") == "exit" {
        args.flag("-no-reboot");
    }
}

fn kernel(args: &mut Args, spec: &InstanceSpec, boot: Boot) {
    match boot {
        Boot::Kernel => {}
        Boot::Floppy => return args.pair("-boot", "a"),
        Boot::Disk | Boot::Cdrom | Boot::Network => return,
    }
    args.pair("-kernel", spec.hv("kernel_path"));
    if !spec.hv("initrd_path").is_empty() {
        args.pair("-initrd", spec.hv("initrd_path"));
    }
    let mut append = Vec::new();
    if !spec.hv("root_path").is_empty() {
        append.push(format!("root={}", spec.hv("root_path")));
    }
    if !spec.hv("kernel_args").is_empty() {
        append.push(spec.hv("kernel_args").to_owned());
    }
    if spec.hv_flag("serial_console") {
        append.push(format!("console=ttyS0,{}", hv_u64(spec, "serial_speed").max(1200)));
    }
    args.pair("-append", append.join(" "));
}

/// CDs and the floppy. A virtual CD is an IDE one unless a SCSI kind is asked for: no firmware boots another.
fn removable(args: &mut Args, spec: &InstanceSpec, boot: Boot) {
    let kind = match spec.hv("cdrom_disk_type") {
        "" => spec.hv("disk_type"),
        kind => kind,
    };
    let device = if kind.starts_with("scsi") { "scsi-cd" } else { "ide-cd" };
    for (index, name) in ["cdrom_image_path", "cdrom2_image_path"].iter().enumerate() {
        let image = spec.hv(name);
        if image.is_empty() {
            continue;
        }
        let node = format!("cdrom{index}");
        let driver = match image.split_once("://") {
            Some((scheme @ ("http" | "https" | "ftp"), _)) => {
                json!({"driver": scheme, "url": image})
            }
            _ => json!({"driver": "file", "filename": image}),
        };
        let blockdev =
            json!({"driver": "raw", "node-name": node, "read-only": true, "file": driver});
        args.pair("-blockdev", blockdev.to_string());
        let first = if boot == Boot::Cdrom && index == 0 { ",bootindex=1" } else { "" };
        if device == "scsi-cd" && index == 0 && !is_scsi(spec.hv("disk_type")) {
            args.pair("-device", format!("{},id=scsi0", scsi_controller(spec)));
        }
        args.pair("-device", format!("{device},drive={node},id=cd{index}{first}"));
    }
    let floppy = spec.hv("floppy_image_path");
    if !floppy.is_empty() {
        let drive = format!("file={},format=raw,if=floppy", escaped(Path::new(floppy)));
        args.pair("-drive", drive);
    }
}

fn scsi_controller(spec: &InstanceSpec) -> &str {
    match spec.hv("scsi_controller_type") {
        "" => "lsi",
        kind => kind,
    }
}

fn drives(args: &mut Args, spec: &InstanceSpec, disks: &[PathBuf], boot: Boot) -> Result<()> {
    if is_scsi(spec.hv("disk_type")) {
        args.pair("-device", format!("{},id=scsi0", scsi_controller(spec)));
    }
    for (index, (disk, path)) in spec.disks.iter().zip(disks).enumerate() {
        args.pair("-blockdev", disk_backend(spec, disk, path)?.to_string());
        let mut device = disk_device(spec, disk)?;
        // With a kernel from outside QEMU has taken the first place itself.
        if index == 0 && boot != Boot::Kernel && boot != Boot::Floppy {
            device = device.with("bootindex", if boot == Boot::Disk { 1 } else { 2 });
        }
        args.pair("-device", device.option());
    }
    Ok(())
}

fn interface(
    args: &mut Args,
    spec: &InstanceSpec,
    nic: &NicSpec,
    index: usize,
    boot: Boot,
) -> Result<()> {
    args.pair("-netdev", netdev(spec, nic)?.option());
    let card = card(spec, nic)?;
    let card = match boot == Boot::Network && index == 0 {
        true => card.with("bootindex", 1),
        false => without_boot_code(spec, card),
    };
    args.pair("-device", card.option());
    Ok(())
}

/// Splits words as a shell does, for `kvm_extra`: quotes and backslashes, nothing else.
pub(crate) fn split_words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(letter),
            (_, '\\') => {
                if let Some(next) = letters.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        let text = format!("hypervisor parameter kvm_extra: a quote is not closed in {text:?}");
        return Err(NodeError::Failed(text));
    }
    words.extend(word);
    Ok(words)
}

/// A set of processors per virtual one, or one for all: `all`, `0-3,6`, or several with colons between.
pub(crate) fn parse_cpu_mask(mask: &str) -> Result<Vec<Option<Vec<usize>>>> {
    let wrong = || NodeError::Failed(format!("hypervisor parameter cpu_mask: can't read '{mask}'"));
    let set = |part: &str| -> Result<Option<Vec<usize>>> {
        if part.is_empty() || part == "all" {
            return Ok(None);
        }
        let mut cpus = Vec::new();
        for range in part.split(',') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let low: usize = low.trim().parse().map_err(|_| wrong())?;
            let high: usize = high.trim().parse().map_err(|_| wrong())?;
            if low > high || high >= 1024 {
                return Err(wrong());
            }
            cpus.extend(low..=high);
        }
        Ok(Some(cpus))
    };
    mask.split(':').map(set).collect()
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
pub(super) mod tests;
