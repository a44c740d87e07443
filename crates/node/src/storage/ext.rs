//! Disk template `ext`: volumes that a provider's scripts make and bring up (Ganeti's external storage interface). A provider is
//! a directory in a search path; each script gets what it needs in its environment. The texts are Ganeti's (3.0,
//! `storage/extstorage.py`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use model::python;
use serde_json::Value;

use super::{Driver, device};
use crate::process::{PATH, Process};
use crate::spec::DiskSpec;
use crate::{ExtProviderInfo, NodeError, Result};

/// How long a provider may take for one action: it may copy whole disks.
const ACTION_LIMIT: Duration = Duration::from_secs(3600);
/// How many lines of a failed script are shown.
const LINES_SHOWN: usize = 20;
/// The longest text about a volume.
const INFO_MAX: usize = 128;
/// The parameters that a provider knows.
const PARAMETERS: &str = "parameters.list";

/// What a provider is asked to do; the script is called the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    Remove,
    Grow,
    Attach,
    Detach,
    SetInfo,
    Verify,
    Snapshot,
    Open,
    Close,
}

impl Action {
    const ALL: [Self; 10] = [
        Self::Create,
        Self::Remove,
        Self::Grow,
        Self::Attach,
        Self::Detach,
        Self::SetInfo,
        Self::Verify,
        Self::Snapshot,
        Self::Open,
        Self::Close,
    ];

    fn script(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Grow => "grow",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::SetInfo => "setinfo",
            Self::Verify => "verify",
            Self::Snapshot => "snapshot",
            Self::Open => "open",
            Self::Close => "close",
        }
    }

    /// Those that came later need not be there.
    fn is_optional(self) -> bool {
        matches!(self, Self::Snapshot | Self::Open | Self::Close)
    }
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// A provider that is usable.
#[derive(Clone, Debug, PartialEq)]
struct Provider {
    path: PathBuf,
    /// Name and description of each parameter.
    parameters: Vec<(String, String)>,
}

/// Reads a provider; the error says what is wrong with it.
fn read(name: &str, search_path: &[PathBuf]) -> Result<Provider, String> {
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let found = search_path.iter().map(|dir| dir.join(name)).find(|path| path.is_dir());
    let path = found.filter(|_| plain).ok_or_else(|| {
        format!("Directory for External Storage Provider {name} not found in search path")
    })?;
    for action in Action::ALL {
        check_script(&path, action)?;
    }
    check_file(&path, PARAMETERS)?;
    let list = path.join(PARAMETERS);
    let text = fs::read_to_string(&list).map_err(|error| {
        let (at, why) = (list.display(), errno(&error));
        format!("Error while reading the EXT parameters file at {at}: {why}")
    })?;
    let parameter = |line: &str| {
        let (name, about) =
            line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        (name.to_owned(), about.trim_start().to_owned())
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(Provider { parameters: lines.map(parameter).collect(), path })
}

fn check_script(dir: &Path, action: Action) -> Result<(), String> {
    let name = action.script();
    if action.is_optional() && !dir.join(name).exists() {
        return Ok(());
    }
    if check_file(dir, name)?.permissions().mode() & 0o100 == 0 {
        return Err(format!("File '{name}' under path '{}' is not executable", dir.display()));
    }
    Ok(())
}

fn check_file(dir: &Path, name: &str) -> Result<fs::Metadata, String> {
    let at = dir.display();
    let meta = fs::metadata(dir.join(name)).map_err(|error| {
        format!("File '{name}' under path '{at}' is missing ({})", errno(&error))
    })?;
    if !meta.is_file() {
        return Err(format!("File '{name}' under path '{at}' is not a regular file"));
    }
    Ok(meta)
}

/// The name of what went wrong, as the system's headers have it.
fn errno(error: &std::io::Error) -> String {
    const NAMES: &[(i32, &str)] =
        &[(2, "ENOENT"), (5, "EIO"), (13, "EACCES"), (20, "ENOTDIR"), (40, "ELOOP")];
    let code = error.raw_os_error().unwrap_or_default();
    let name = NAMES.iter().find(|(number, _)| *number == code);
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

/// Every provider in every directory, good or bad, in the order of the search path.
pub(crate) fn providers(search_path: &[PathBuf]) -> Vec<ExtProviderInfo> {
    let mut found = Vec::new();
    for dir in search_path {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        for name in names {
            let read = read(&name, std::slice::from_ref(dir));
            let path = dir.join(&name).display().to_string();
            let (diagnose, parameters) = match read {
                Ok(provider) => (String::new(), provider.parameters),
                Err(diagnose) => (diagnose, Vec::new()),
            };
            found.push(ExtProviderInfo {
                name,
                path,
                valid: diagnose.is_empty(),
                diagnose,
                parameters,
            });
        }
    }
    found
}

/// What a script is told beside the volume itself.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    size_mib: Option<u64>,
    new_size_mib: Option<u64>,
    metadata: Option<String>,
    exclusive: Option<bool>,
}

/// The environment of a script.
fn environment(disk: &DiskSpec, told: &Told) -> Vec<(String, String)> {
    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("LC_ALL".to_owned(), "C".to_owned()),
        ("VOL_NAME".to_owned(), volume(disk).to_owned()),
    ];
    let mut add = |name: &str, value: Option<String>| {
        env.extend(value.map(|value| (name.to_owned(), value)));
    };
    for (name, value) in &disk.params {
        add(&format!("EXTP_{}", name.to_uppercase()), Some(python::str(value)));
    }
    add("VOL_SIZE", told.size_mib.map(|size| size.to_string()));
    add("VOL_NEW_SIZE", told.new_size_mib.map(|size| size.to_string()));
    add("VOL_METADATA", told.metadata.clone());
    add("VOL_CNAME", disk.name.clone());
    add("VOL_UUID", Some(disk.uuid.to_string()));
    add("VOL_OPEN_EXCLUSIVE", told.exclusive.map(|yes| python::str(&Value::Bool(yes))));
    env
}

fn part(disk: &DiskSpec, at: usize) -> &str {
    disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default()
}

fn volume(disk: &DiskSpec) -> &str {
    part(disk, 1)
}

/// A text about a volume, of the letters that providers must bear.
fn info_text(text: &str) -> String {
    let letter = |(at, letter): (usize, char)| match letter {
        '-' if at > 0 => letter,
        _ if letter.is_ascii_alphanumeric() || "_+.".contains(letter) => letter,
        _ => '_',
    };
    text.chars().take(INFO_MAX).enumerate().map(letter).collect()
}

/// Volumes of providers.
#[derive(Clone, Debug)]
pub(crate) struct Ext {
    pub(crate) search_path: Vec<PathBuf>,
    pub(crate) log_dir: PathBuf,
}

impl Ext {
    /// Runs a script and answers what it printed on its standard output; a script that is optional and not there did it.
    async fn run(&self, action: Action, disk: &DiskSpec, told: &Told) -> Result<String> {
        let provider = read(part(disk, 0), &self.search_path).map_err(failed)?;
        let script = provider.path.join(action.script());
        if action.is_optional() && !script.exists() {
            return Ok(String::new());
        }
        let process = Process::new(&script, ACTION_LIMIT)
            .env_only(environment(disk, told))
            .cwd(&provider.path);
        let ran = process.run().await.map_err(|error| failed(error.to_string()))?;
        let output = ran.output();
        if action != Action::Attach {
            self.keep_log(action, disk, &output);
        }
        let Some(reason) = ran.failure() else { return Ok(ran.stdout_text()) };
        let lines: Vec<&str> = output.lines().collect();
        let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        Err(failed(format!(
            "External storage's {} script failed ({reason}), last lines of output:\n{shown}",
            action.script()
        )))
    }

    /// What a script printed, in a file of its own. That it cannot be kept does not fail the action.
    fn keep_log(&self, action: Action, disk: &DiskSpec, output: &str) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let parts =
            [action.script(), part(disk, 0), volume(disk)].map(|part| part.replace('/', "_"));
        let path = self.log_dir.join(format!("{}-{}.log", parts.join("-"), now.as_millis()));
        let written = fs::create_dir_all(&self.log_dir).and_then(|()| fs::write(&path, output));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "can't keep a provider's output");
        }
    }

    /// Brings a volume up and answers its device; `None` when the provider has none for it.
    async fn attach(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        let said = self.run(Action::Attach, disk, &Told::default()).await?;
        let (path, uris) = attached(&said);
        match path {
            Some(path) if device::is_block_device(&path) => Ok(Some(path)),
            Some(path) => {
                tracing::error!(path = %path.display(), "a provider's device is no block device");
                Ok(None)
            }
            None if uris.is_empty() => Ok(None),
            None => Err(NodeError::Unsupported(format!(
                "provider {} gives no device for {}, and userspace access is not there yet on a real node",
                part(disk, 0),
                volume(disk)
            ))),
        }
    }
}

/// What `attach` printed: a device, and addresses for hypervisors that need none.
fn attached(said: &str) -> (Option<PathBuf>, Vec<&str>) {
    let mut lines = said.split('\n');
    let path = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
    (path, lines.filter(|line| !line.is_empty()).collect())
}

#[async_trait]
impl Driver for Ext {
    async fn create(&self, disk: &DiskSpec) -> Result<()> {
        let told = Told { size_mib: Some(disk.size_mib), ..Told::default() };
        self.run(Action::Create, disk, &told).await.map(drop)
    }

    async fn remove(&self, disk: &DiskSpec) -> Result<()> {
        // Ganeti: a volume that does not come up is taken for gone (3.0, `backend.py` BlockdevRemove).
        let there = self.attach(disk).await.inspect_err(|error| {
            tracing::info!(%error, "a volume that is to be removed can't be attached");
        });
        if !there.is_ok_and(|there| there.is_some()) {
            return Ok(());
        }
        self.run(Action::Detach, disk, &Told::default()).await?;
        self.run(Action::Remove, disk, &Told::default()).await.map(drop)
    }

    async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let path = self.attach(disk).await?;
        let path = path.ok_or_else(|| {
            failed(format!("provider {} has no device for volume {}", part(disk, 0), volume(disk)))
        })?;
        let told = Told { exclusive: Some(true), ..Told::default() };
        self.run(Action::Open, disk, &told).await?;
        Ok(path)
    }

    async fn shutdown(&self, disk: &DiskSpec) -> Result<()> {
        if self.attach(disk).await?.is_some() {
            self.run(Action::Detach, disk, &Told::default()).await?;
        }
        Ok(())
    }

    async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        self.attach(disk).await
    }

    async fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()> {
        if self.attach(disk).await?.is_none() {
            return Err(failed("Can't attach to extstorage device during Grow()"));
        }
        if dry_run {
            // A provider cannot be asked whether it could.
            return Ok(());
        }
        let told = Told {
            size_mib: Some(disk.size_mib),
            new_size_mib: Some(disk.size_mib + amount_mib),
            ..Told::default()
        };
        self.run(Action::Grow, disk, &told).await.map(drop)
    }

    async fn rename(&self, _disk: &DiskSpec, _new: &DiskSpec) -> Result<()> {
        // Its name does not follow the instance's.
        Ok(())
    }

    async fn set_info(&self, disk: &DiskSpec, info: &str) -> Result<()> {
        let told = Told { metadata: Some(info_text(info)), ..Told::default() };
        self.run(Action::SetInfo, disk, &told).await.map(drop)
    }

    async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        match self.attach(disk).await? {
            Some(path) => device::size_bytes(path).await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn disk() -> DiskSpec {
        serde_json::from_value(json!({
            "uuid": "u-1", "name": "data", "iv_name": "disk/0", "dev_type": "ext",
            "logical_id": ["shelf", "a1.ext.disk0"], "size_mib": 8, "mode": "rw", "spindles": null,
            "nodes": [], "children": [],
            "params": {"access": "kernelspace", "provider": "shelf", "pool": "gold", "n": 3, "thin": true},
        }))
        .unwrap()
    }

    /// A provider whose scripts write down what they were told.
    fn provider(dir: &Path) -> PathBuf {
        let path = dir.join("shelf");
        fs::create_dir_all(&path).unwrap();
        for action in Action::ALL {
            let script = path.join(action.script());
            let text = "#!/bin/sh\nenv | grep -v ^PWD | sort > \"$0.seen\"\necho said; [ \"$VOL_METADATA\" != bad ]\n";
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(path.join(PARAMETERS), "pool which pool\n\nthin\n").unwrap();
        path
    }

    #[tokio::test]
    async fn scripts_are_told_of_their_volume() {
        let root = tempfile::tempdir().unwrap();
        let path = provider(root.path());
        let search_path = vec![root.path().to_owned()];
        let ext = Ext { search_path, log_dir: root.path().join("log") };
        ext.create(&disk()).await.unwrap();
        let seen = |script: &str| fs::read_to_string(path.join(format!("{script}.seen"))).unwrap();
        insta::assert_snapshot!(seen("create"));
        ext.set_info(&disk(), "origin name").await.unwrap();
        assert!(seen("setinfo").contains("VOL_METADATA=origin_name\n"));
        let logs: Vec<_> = fs::read_dir(root.path().join("log")).unwrap().flatten().collect();
        assert_eq!(logs.len(), 2);
        assert_eq!(fs::read_to_string(logs[0].path()).unwrap(), "said\n");
        let error = ext.set_info(&disk(), "bad").await.unwrap_err().to_string();
        assert_eq!(
            error,
            "External storage's setinfo script failed (exited with exit code 1), last lines of output:\nsaid"
        );
        // `attach` must print a device.
        assert_eq!(ext.find(&disk()).await.unwrap(), None);
        let error = ext.grow(&disk(), 4, false).await.unwrap_err().to_string();
        assert_eq!(error, "Can't attach to extstorage device during Grow()");
        ext.remove(&disk()).await.unwrap();
        assert!(!path.join("remove.seen").exists());
    }

    #[test]
    fn providers_are_judged() {
        let root = tempfile::tempdir().unwrap();
        let path = provider(root.path());
        let search_path = [root.path().to_owned()];
        let parameters =
            vec![("pool".to_owned(), "which pool".to_owned()), ("thin".into(), "".into())];
        assert_eq!(read("shelf", &search_path).unwrap().parameters, parameters);
        for optional in ["snapshot", "open", "close"] {
            fs::remove_file(path.join(optional)).unwrap();
        }
        assert!(read("shelf", &search_path).is_ok());
        let check = |expected: &str| {
            let error = read("shelf", &search_path).unwrap_err();
            assert_eq!(error.replace(&path.display().to_string(), "SHELF"), expected);
        };
        let grow = path.join("grow");
        fs::set_permissions(&grow, fs::Permissions::from_mode(0o644)).unwrap();
        check("File 'grow' under path 'SHELF' is not executable");
        fs::remove_file(&grow).unwrap();
        check("File 'grow' under path 'SHELF' is missing (ENOENT)");
        fs::create_dir(&grow).unwrap();
        check("File 'grow' under path 'SHELF' is not a regular file");
        let listed = providers(&search_path);
        assert_eq!((listed[0].name.as_str(), listed[0].valid), ("shelf", false));
        let error = read("none", &search_path).unwrap_err();
        assert_eq!(error, "Directory for External Storage Provider none not found in search path");
        assert!(read("../shelf", &search_path).is_err());
    }

    #[test]
    fn what_attach_prints_is_read() {
        assert_eq!(attached("/dev/sdx\n"), (Some("/dev/sdx".into()), vec![]));
        assert_eq!(attached("\nkvm:nbd:x\n"), (None, vec!["kvm:nbd:x"]));
        assert_eq!(attached(""), (None, vec![]));
    }
}
