//! The bundled operating system `tiny`: a small Linux that boots for real, made of two Debian packages without root, loop
//! device or mount. What is built is an ordinary definition directory (OS interface 20) that also carries the kernel and
//! the first file system to boot with; its create script needs nothing but `mke2fs`.

mod cpio;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::param::Dict;
use serde_json::json;

use self::cpio::Archive;
use crate::Feedback;
use crate::process::{Process, ProcessError};

/// The name of the definition.
pub const NAME: &str = "tiny";
/// Said to the guest when only `/dev/kvm` is tried, and its answer.
pub(crate) const TRIAL_FLAG: &str = "rapid.trial";
pub(crate) const TRIAL_ANSWER: &str = "RAPID-TRIAL-OK";

/// The package that always depends on the newest kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// How long packages may take to come.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
/// How long any other step may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);
/// Drivers, each after those that it needs. What a kernel has built in is not there as a file, and left out.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "af_packet",
    "button",
    "evdev",
    "virtio_balloon",
];

const SCRIPTS: &[(&str, &str)] = &[
    ("create", include_str!("os/create")),
    ("export", include_str!("os/export")),
    ("import", include_str!("os/import")),
    ("rename", include_str!("os/rename")),
    ("verify", include_str!("os/verify")),
];
const LISTS: &[(&str, &str)] = &[
    ("ganeti_api_version", "20\n"),
    ("parameters.list", include_str!("os/parameters.list")),
    ("variants.list", include_str!("os/variants.list")),
];
const GUEST_PROGRAMS: &[(&str, &str)] = &[
    ("etc/start", include_str!("guest/start")),
    ("etc/stop", include_str!("guest/stop")),
    ("etc/dhcp", include_str!("guest/dhcp")),
    ("etc/acpi/PWRF", "#!/bin/sh\npoweroff\n"),
];
const GUEST_FILES: &[(&str, &str)] = &[
    ("etc/inittab", include_str!("guest/inittab")),
    ("etc/profile", include_str!("guest/profile")),
    ("etc/acpid.conf", "PWRF\tPWRF\n"),
    ("etc/passwd", "root::0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hostname", "tiny\n"),
];

/// Why `tiny` could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TinyError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{path}: {source}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Missing(String),
}

type Result<T> = std::result::Result<T, TinyError>;

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| TinyError::File { path: path.display().to_string(), source })
}

/// The kernel and the first file system of a `tiny` in a directory of definitions.
pub(crate) fn boot_files(os_dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let tiny = os_dir.join(NAME);
    let files = (tiny.join("kernel"), tiny.join("initrd"));
    (files.0.is_file() && files.1.is_file()).then_some(files)
}

/// The hypervisor parameters that instances of a `tiny` in this directory boot with; they belong into the cluster's
/// `os_hvp` for it, under `kvm`.
pub fn hvparams(os_dir: &Path) -> Dict {
    let tiny = os_dir.join(NAME);
    let path = |name: &str| tiny.join(name).display().to_string();
    let mut dict = Dict::new();
    dict.insert("kernel_path".into(), json!(path("kernel")));
    dict.insert("initrd_path".into(), json!(path("initrd")));
    dict.insert("root_path".into(), json!("/dev/vda"));
    dict.insert("kernel_args".into(), json!("rw quiet panic=5"));
    dict.insert("serial_console".into(), json!(true));
    dict
}

/// Whether `tiny` is in this directory of definitions.
pub fn is_installed(os_dir: &Path) -> bool {
    boot_files(os_dir).is_some()
}

/// Makes `tiny` in a directory of definitions, in place of an older one; `progress` is told each step. The packages come
/// from the machine's apt sources.
pub async fn install(os_dir: &Path, progress: Feedback) -> Result<()> {
    at(os_dir, fs::create_dir_all(os_dir))?;
    let work = tempfile::Builder::new().prefix(".tiny-").tempdir_in(os_dir);
    let work = at(os_dir, work)?;
    let packages = work.path().join("packages");
    at(&packages, fs::create_dir(&packages))?;
    download(&packages, &progress).await?;
    let unpacked = work.path().join("unpacked");
    for package in list(&packages)? {
        let args = [Path::new("-x"), &package, &unpacked];
        Process::new("dpkg-deb", STEP_LIMIT).args(args).check().await?;
    }

    let built = work.path().join(NAME);
    at(&built, fs::create_dir(&built))?;
    progress("unpacking the kernel and its drivers");
    let release = kernel_release(&unpacked)?;
    let kernel = unpacked.join(format!("boot/vmlinuz-{release}"));
    at(&kernel, fs::copy(&kernel, built.join("kernel")))?;
    let modules = work.path().join("modules");
    copy_modules(&unpacked.join("lib/modules").join(&release), &modules).await?;
    let busybox = find_busybox(&unpacked)?;
    let applets = Process::new(&busybox, STEP_LIMIT).args(["--list"]).check().await?;
    let applets: Vec<String> = applets.stdout_text().lines().map(str::to_owned).collect();

    progress("making the guest's file systems");
    let first = work.path().join("first");
    base_tree(&first, &busybox, &applets)?;
    at(&modules, copy_dir(&modules, &first.join("lib/m")))?;
    write(&first.join("init"), include_str!("guest/init"), 0o755)?;
    let mut archive = Archive::default();
    at(&first, archive.tree(&first))?;
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    let initrd = built.join("initrd");
    at(&initrd, fs::File::create(&initrd).and_then(|mut file| file.write_all(&archive.finish())))?;

    let rootfs = built.join("rootfs");
    base_tree(&rootfs, &busybox, &applets)?;
    for (name, text) in GUEST_PROGRAMS {
        write(&rootfs.join(name), text, 0o755)?;
    }
    for (name, text) in GUEST_FILES {
        write(&rootfs.join(name), text, 0o644)?;
    }
    for (name, text) in SCRIPTS {
        write(&built.join(name), text, 0o755)?;
    }
    for (name, text) in LISTS {
        write(&built.join(name), text, 0o644)?;
    }

    let target = os_dir.join(NAME);
    let older = work.path().join("older");
    match fs::rename(&target, &older) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return at(&target, Err(error)),
        _ => {}
    }
    at(&target, fs::rename(&built, &target))?;
    progress(&format!("tiny (Linux {release}) is in {}", target.display()));
    Ok(())
}

async fn download(dir: &Path, progress: &Feedback) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
        if crate::process::find_program(tool).is_none() {
            return Err(TinyError::Missing(format!(
                "{tool} is missing: tiny is made from Debian packages, on Debian or what comes from it"
            )));
        }
    }
    let depends = Process::new("apt-cache", STEP_LIMIT).args(["depends", KERNEL_PACKAGE]);
    let depends = depends.run().await?.stdout_text();
    let image = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(str::trim)
        .find(|name| name.starts_with("linux-image-"));
    let Some(image) = image else {
        return Err(TinyError::Missing(format!(
            "the apt sources of this machine have no package {KERNEL_PACKAGE}; run 'apt-get update' as root first"
        )));
    };
    progress(&format!("downloading {image} and {BUSYBOX_PACKAGE} from the machine's apt sources"));
    // Its own user could not write here, and what is downloaded is checked all the same.
    let fetched = Process::new("apt-get", DOWNLOAD_LIMIT)
        .args(["-q", "-o", "APT::Sandbox::User=", "download", image, BUSYBOX_PACKAGE])
        .cwd(dir)
        .check()
        .await;
    match fetched {
        Ok(_) => Ok(()),
        Err(error) => Err(TinyError::Missing(format!(
            "the packages can't be downloaded; 'apt-get update' as root may help ({error})"
        ))),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = at(dir, fs::read_dir(dir))?;
    let mut paths = at(
        dir,
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>(),
    )?;
    paths.sort();
    Ok(paths)
}

fn kernel_release(unpacked: &Path) -> Result<String> {
    let boot = list(&unpacked.join("boot"))?;
    let names = boot.iter().filter_map(|path| path.file_name()?.to_str()?.strip_prefix("vmlinuz-"));
    let release = names.max().map(str::to_owned);
    release.ok_or_else(|| TinyError::Missing("the kernel's package holds no kernel".into()))
}

fn find_busybox(unpacked: &Path) -> Result<PathBuf> {
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| TinyError::Missing("the package busybox-static holds no busybox".into()))
}

/// Finds a file by the names of modules below a directory.
fn find_modules(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_modules(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Copies the drivers that a guest needs, unpacked, with a list of them in the order of loading.
async fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    let from = if from.is_dir() {
        from.to_owned()
    } else {
        // Later releases keep everything below /usr.
        let text = from.to_string_lossy().replace("/lib/modules/", "/usr/lib/modules/");
        PathBuf::from(text)
    };
    at(to, fs::create_dir(to))?;
    let mut files = Vec::new();
    at(&from, find_modules(&from, &mut files))?;
    let mut order = String::new();
    for module in MODULES {
        let named = |path: &&PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            let stem = name.split_once(".ko").map_or("", |(stem, _)| stem);
            stem.replace('-', "_") == *module
        };
        let Some(path) = files.iter().find(named) else { continue };
        let target = to.join(format!("{module}.ko"));
        let unpack = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => Some("xz"),
            Some("zst") => Some("zstd"),
            Some("gz") => Some("gzip"),
            _ => None,
        };
        match unpack {
            None => {
                at(path, fs::copy(path, &target))?;
            }
            Some(tool) => {
                let (from, to) =
                    (at(path, fs::File::open(path))?, at(&target, fs::File::create(&target))?);
                Process::new(tool, STEP_LIMIT).args(["-dc"]).stdin(from).stdout(to).check().await?;
            }
        }
        order.push_str(&format!("{module}.ko\n"));
    }
    write(&to.join("order"), &order, 0o644)
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What both file systems of the guest begin with: busybox under all its names.
fn base_tree(dir: &Path, busybox: &Path, applets: &[String]) -> Result<()> {
    const DIRS: &[&str] = &[
        "bin", "sbin", "usr/bin", "usr/sbin", "etc/acpi", "proc", "sys", "dev", "run", "tmp",
        "root", "lib", "mnt", "var/log", "newroot",
    ];
    for name in DIRS {
        let path = dir.join(name);
        at(&path, fs::create_dir_all(&path))?;
    }
    let target = dir.join("bin/busybox");
    at(busybox, fs::copy(busybox, &target))?;
    at(&target, fs::set_permissions(&target, fs::Permissions::from_mode(0o755)))?;
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        let path = dir.join("bin").join(applet);
        at(&path, symlink("busybox", &path))?;
    }
    for applet in ["init", "poweroff", "reboot", "halt"] {
        let path = dir.join("sbin").join(applet);
        at(&path, symlink("../bin/busybox", &path))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    at(path, fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes())))?;
    at(path, fs::set_permissions(path, fs::Permissions::from_mode(mode)))
}
