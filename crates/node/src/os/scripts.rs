//! Running an operating system's scripts: their environment, their log file, their time limit. A script sees nothing of
//! this program's own environment, and what it prints of private and secret parameters is masked wherever it goes. Disks
//! of instances without an operating system are copied as they are.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::param::{Dict, DiskTemplate};
use serde_json::Value;

use super::{Definition, split_name};
use crate::process::{Finished, PATH, Process};
use crate::spec::{InstanceSpec, NetworkSpec};
use crate::{Feedback, NodeError, OsParams, Result};

/// How long one script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(3600);
/// How long a disk may take to be dumped or filled: Ganeti sets no limit there.
pub(crate) const DUMP_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long `verify` may take: it only looks at parameters.
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// What is shown of a log when a script failed.
const LAST_LINES: usize = 20;

type Environment = Vec<(String, String)>;

/// A value as Python's `str` writes it, which is how Ganeti hands parameters to scripts.
fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Null => "None".into(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A time as Python writes it: a whole one with its fraction.
fn python_float(value: f64) -> String {
    format!("{value:?}")
}

/// What every script gets.
fn core_environment(os_name: &str, os: &Definition, params: &Dict, debug: u64) -> Environment {
    let variant = match split_name(os_name).1 {
        _ if os.api_version() < 15 || os.variants.is_empty() => "",
        "" => os.variants[0].as_str(),
        variant => variant,
    };
    let mut env = vec![
        ("OS_API_VERSION".to_owned(), os.api_version().to_string()),
        ("OS_NAME".to_owned(), os.name.clone()),
        ("DEBUG_LEVEL".to_owned(), debug.to_string()),
        ("OS_VARIANT".to_owned(), variant.to_owned()),
    ];
    for (name, value) in params {
        let name = format!("OSP_{}", name.to_uppercase().replace('-', "_"));
        env.push((name, python_text(value)));
    }
    env.push(("PATH".to_owned(), PATH.to_owned()));
    env
}

/// What scripts get that work on an instance. `paths` are the files of its disks, in order.
fn environment(
    spec: &InstanceSpec,
    os: &Definition,
    params: &OsParams,
    paths: &[PathBuf],
) -> Environment {
    let mut env = core_environment(&spec.os, os, &params.values, params.debug_level);
    let mut set = |name: String, value: String| env.push((name, value));
    set("INSTANCE_NAME".into(), spec.name.clone());
    set("INSTANCE_OS".into(), spec.os.clone());
    set("INSTANCE_UUID".into(), spec.uuid.to_string());
    set("INSTANCE_CTIME".into(), python_float(spec.ctime));
    set("INSTANCE_MTIME".into(), python_float(spec.mtime));
    set("INSTANCE_PRIMARY_NODE".into(), spec.primary_node.clone());
    set("INSTANCE_SECONDARY_NODES".into(), spec.secondary_nodes.join(" "));
    set("HYPERVISOR".into(), spec.hypervisor.to_string());
    set("DISK_COUNT".into(), spec.disks.len().to_string());
    set("NIC_COUNT".into(), spec.nics.len().to_string());
    let frontend = |name: &str| spec.hvparams.get(name).and_then(Value::as_str).map(str::to_owned);
    for (index, disk) in spec.disks.iter().enumerate() {
        let mut set = |name: &str, value: String| set(format!("DISK_{index}_{name}"), value);
        set("ACCESS", disk.mode.clone());
        set("UUID", disk.uuid.to_string());
        set("SIZE", disk.size_mib.to_string());
        if let Some(path) = paths.get(index) {
            set("PATH", path.display().to_string());
            set("URI", path.display().to_string());
        }
        if let Some(name) = &disk.name {
            set("NAME", name.clone());
        }
        if let Some(kind) = frontend("disk_type") {
            set("FRONTEND_TYPE", kind);
        }
        match disk.dev_type {
            DiskTemplate::File | DiskTemplate::Sharedfile | DiskTemplate::Gluster => {
                let driver = disk.logical_id.first().and_then(Value::as_str).unwrap_or("loop");
                set("BACKEND_TYPE", format!("file:{driver}"));
            }
            DiskTemplate::Blockdev
            | DiskTemplate::Drbd
            | DiskTemplate::Ext
            | DiskTemplate::Plain
            | DiskTemplate::Rbd => set("BACKEND_TYPE", "block".into()),
            DiskTemplate::Diskless => {}
        }
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        let mut set = |name: &str, value: String| set(format!("NIC_{index}_{name}"), value);
        set("MAC", nic.mac.clone());
        set("UUID", nic.uuid.to_string());
        if let Some(name) = &nic.name {
            set("NAME", name.clone());
        }
        if let Some(ip) = &nic.ip {
            set("IP", ip.clone());
        }
        set("MODE", nic.mode.clone());
        if nic.mode == "bridged" {
            set("BRIDGE", nic.link.clone());
        }
        if !nic.link.is_empty() {
            set("LINK", nic.link.clone());
        }
        if let Some(network) = &nic.network {
            network_environment(network, &mut set);
        }
        if let Some(kind) = frontend("nic_type") {
            set("FRONTEND_TYPE", kind);
        }
    }
    for (kind, params) in [("BE", &spec.beparams), ("HV", &spec.hvparams)] {
        for (name, value) in params {
            set(format!("INSTANCE_{kind}_{name}"), python_text(value));
        }
    }
    env
}

fn network_environment(network: &NetworkSpec, set: &mut impl FnMut(&str, String)) {
    set("NETWORK_NAME", network.name.clone());
    set("NETWORK_UUID", network.uuid.to_string());
    set("NETWORK_TAGS", network.tags.join(" "));
    set("NETWORK_SUBNET", network.subnet.clone());
    let optional = [
        ("NETWORK_GATEWAY", &network.gateway),
        ("NETWORK_SUBNET6", &network.subnet6),
        ("NETWORK_GATEWAY6", &network.gateway6),
        ("NETWORK_MAC_PREFIX", &network.mac_prefix),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            set(name, value.clone());
        }
    }
}

/// A script's log file, and what is shown of it when the script failed.
struct Log {
    path: PathBuf,
    file: Mutex<File>,
    last: Mutex<Vec<String>>,
}

impl Log {
    fn create(dir: &Path, kind: &str, os: &str, instance: &str) -> Result<Arc<Self>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{kind}-{os}-{instance}-{}.log", since.as_millis());
        let path = dir.join(name);
        let opened = fs::create_dir_all(dir).and_then(|()| File::create(&path));
        let file = opened.map_err(|error| {
            NodeError::Failed(format!("can't write the log file {}: {error}", path.display()))
        })?;
        Ok(Arc::new(Self { path, file: Mutex::new(file), last: Mutex::default() }))
    }

    fn line(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end the script; its exit code tells.
        let _ = writeln!(file, "{line}");
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.remove(0);
        }
        last.push(line.to_owned());
    }

    fn last(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// What scripts are run with.
pub(crate) struct Scripts {
    /// None: the instance has no operating system, and its disks are copied as they are.
    pub(crate) os: Option<Definition>,
    pub(crate) spec: InstanceSpec,
    pub(crate) params: OsParams,
    /// The files of the instance's disks, in order.
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) log_dir: PathBuf,
}

impl Scripts {
    fn os(&self) -> Result<&Definition> {
        let name = &self.spec.name;
        let missing = || NodeError::Failed(format!("instance {name} has no operating system"));
        self.os.as_ref().ok_or_else(missing)
    }

    fn process(
        &self,
        script: &str,
        limit: Duration,
        more: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Process> {
        let os = self.os()?;
        let mut env = environment(&self.spec, os, &self.params, &self.disks);
        env.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(Process::new(os.path.join(script), limit).env_only(env).cwd(&os.path))
    }

    /// Runs a script whose output goes to the log, to the job and, on failure, into the error.
    async fn run(
        &self,
        (kind, subject): (&str, &str),
        process: Process,
        words: &str,
        out: Feedback,
    ) -> Result<()> {
        let os = if self.spec.os.is_empty() { "none" } else { &self.spec.os };
        let log = Log::create(&self.log_dir, kind, os, subject)?;
        let (sink, params) = (log.clone(), self.params.clone());
        let lines: Feedback = Arc::new(move |line| {
            let line = params.masked(line);
            sink.line(&line);
            out(&line);
        });
        let done = process.lines(lines).run().await;
        let reason = match done {
            Ok(done) => done.failure(),
            Err(error) => Some(error.to_string()),
        };
        let Some(reason) = reason else { return Ok(()) };
        tracing::error!(instance.name = %self.spec.name, log = %log.path.display(), "{words} ({reason})");
        let last = log.last();
        Err(NodeError::Failed(format!("{words} ({reason}), last lines in the log file:\n{last}")))
    }

    pub(crate) async fn create(&self, reinstall: bool, out: Feedback) -> Result<()> {
        let more = reinstall.then(|| ("INSTANCE_REINSTALL", "1".to_owned()));
        let process = self.process("create", SCRIPT_LIMIT, more)?;
        self.run(("add", &self.spec.name), process, "OS create script failed", out).await
    }

    pub(crate) async fn rename(&self, old_name: &str, out: Feedback) -> Result<()> {
        let more = [("OLD_INSTANCE_NAME", old_name.to_owned())];
        let process = self.process("rename", SCRIPT_LIMIT, more)?;
        let subject = format!("{old_name}-{}", self.spec.name);
        self.run(("rename", &subject), process, "OS rename script failed", out).await
    }

    /// Dumps a device into a file or pipe: by the script `export`, whose standard output is the dump, or as it is.
    pub(crate) async fn export(
        &self,
        index: usize,
        device: &Path,
        to: File,
        out: Feedback,
    ) -> Result<()> {
        let subject = format!("{}-disk{index}", self.spec.name);
        if self.os.is_none() {
            let args = [format!("if={}", device.display()), "bs=1M".into(), "status=none".into()];
            let process = Process::new("dd", DUMP_LIMIT).args(args).stdout(to);
            return self.run(("export", &subject), process, "Dumping the disk failed", out).await;
        }
        let path = device.display().to_string();
        let more = [
            ("EXPORT_DEVICE", path.clone()),
            ("EXPORT_DISK_PATH", path.clone()),
            ("EXPORT_DISK_URI", path),
            ("EXPORT_INDEX", index.to_string()),
        ];
        let process = self.process("export", DUMP_LIMIT, more)?.stdout(to);
        self.run(("export", &subject), process, "OS export script failed", out).await
    }

    /// Fills a disk from a file or pipe: by the script `import`, whose standard input is the dump, or as it is.
    pub(crate) async fn import(&self, index: usize, from: File, out: Feedback) -> Result<()> {
        let device = self.disks.get(index).map(|path| path.display().to_string());
        let missing = || NodeError::Failed(format!("there is no disk {index} to work on"));
        let path = device.ok_or_else(missing)?;
        let subject = format!("{}-disk{index}", self.spec.name);
        if self.os.is_none() {
            let of = format!("of={path}");
            let args = [&of, "bs=1M", "iflag=fullblock", "conv=notrunc", "status=none"];
            let process = Process::new("dd", DUMP_LIMIT).args(args).stdin(from);
            return self.run(("import", &subject), process, "Filling the disk failed", out).await;
        }
        let more = [
            ("IMPORT_DEVICE", path.clone()),
            ("IMPORT_DISK_PATH", path.clone()),
            ("IMPORT_DISK_URI", path),
            ("IMPORT_INDEX", index.to_string()),
        ];
        let process = self.process("import", DUMP_LIMIT, more)?.stdin(from);
        self.run(("import", &subject), process, "OS import script failed", out).await
    }
}

/// Checks a variant and parameters, and lets the definition's own `verify` look at them.
pub(crate) async fn validate(
    os: &Definition,
    os_name: &str,
    params: &OsParams,
    force_variant: bool,
) -> Result<()> {
    let failed = |text: String| Err(NodeError::Failed(text));
    let (name, variant) = (&os.name, split_name(os_name).1);
    if !force_variant {
        match (os.variants.is_empty(), variant) {
            (true, "") => {}
            (true, _) => {
                return failed(format!(
                    "OS '{name}' does not support variants ('{variant}' passed)"
                ));
            }
            (false, "") => return failed(format!("OS name '{os_name}' must include a variant")),
            (false, _) if !os.variants.iter().any(|known| known == variant) => {
                return failed(format!("OS '{name}' does not support variant '{variant}'"));
            }
            (false, _) => {}
        }
    }
    if os.api_versions.iter().max().copied().unwrap_or(0) < 20 {
        return Ok(());
    }
    let known = |param: &String| os.parameters.iter().any(|(name, _)| name == param);
    let unknown: Vec<&str> =
        params.values.keys().filter(|param| !known(param)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        return failed(format!(
            "The following parameters are not supported by the OS {name}: {list}"
        ));
    }
    let env = core_environment(os_name, os, &params.values, 0);
    let done = Process::new(os.path.join("verify"), VERIFY_LIMIT)
        .args(["parameters"])
        .env_only(env)
        .cwd(&os.path)
        .run()
        .await
        .map_err(|error| NodeError::Failed(error.to_string()))?;
    match done.failure() {
        None => Ok(()),
        Some(reason) => failed(format!(
            "OS validation script failed ({reason}), output: {}",
            params.masked(&Finished::output(&done))
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::define;
    use super::*;
    use serde_json::json;

    fn definition(root: &Path) -> Definition {
        let show = "#!/bin/sh\nenv | sort | grep -v '^PWD\\|^_=\\|^SHLVL'; echo done >&2\n";
        let files = [
            ("ganeti_api_version", "20\n"),
            ("create", show),
            (
                "export",
                "#!/bin/sh\n[ $EXPORT_DEVICE = $EXPORT_DISK_URI ] || exit 1\n\
                 echo \"dump of $EXPORT_DISK_PATH $EXPORT_INDEX\"; echo note >&2\n",
            ),
            (
                "import",
                "#!/bin/sh\n[ $IMPORT_DEVICE.$IMPORT_INDEX = $IMPORT_DISK_URI.0 ] || exit 1\n\
                 cat > $IMPORT_DISK_PATH\n",
            ),
            ("rename", "#!/bin/sh\necho \"was $OLD_INSTANCE_NAME\"; exit 4\n"),
            (
                "verify",
                "#!/bin/sh\n[ \"$1 $OSP_DHCP_ON\" = 'parameters yes' ] || { echo bad; exit 1; }\n",
            ),
            ("variants.list", "small\n"),
            ("parameters.list", "dhcp-on whether\n"),
        ];
        define(root, "os", &files);
        super::super::read("os", &[root.to_owned()]).unwrap()
    }

    fn spec() -> InstanceSpec {
        serde_json::from_value(json!({
            "name": "web.example.com", "uuid": "u-1", "ctime": 1.5, "mtime": 2.0, "tags": [],
            "primary_node": "n1", "secondary_nodes": [], "os": "os+small", "hypervisor": "kvm",
            "hvparams": {"disk_type": "paravirtual", "nic_type": "e1000", "acpi": true},
            "beparams": {"vcpus": 1}, "osparams": {},
            "nics": [{"uuid": "n-1", "name": null, "mac": "aa:00:00:00:00:01", "ip": "10.0.0.1",
                      "mode": "bridged", "link": "br0", "vlan": "", "network": null}],
            "disks": [{"uuid": "d-1", "name": null, "iv_name": "disk/0", "dev_type": "file",
                       "logical_id": ["loop", "/f/d0"], "size_mib": 64, "mode": "rw", "spindles": null,
                       "nodes": [], "params": {}, "children": []}],
            "network_port": null,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn scripts_see_their_environment_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let os = definition(root.path());
        let values = json!({"dhcp-on": "yes"}).as_object().unwrap().clone();
        let params = OsParams { values, debug_level: 0, hidden: Vec::new() };
        let disk = root.path().join("disk0");
        let log_dir = root.path().join("log");
        let mut scripts = Scripts {
            os: Some(os),
            spec: spec(),
            params,
            disks: vec![disk.clone()],
            log_dir: log_dir.clone(),
        };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let out: Feedback = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
        scripts.create(true, out.clone()).await.unwrap();
        let mut seen = lines.lock().unwrap().clone();
        seen.sort();
        let root_text = root.path().display().to_string();
        insta::assert_snapshot!(seen.join("\n").replace(&root_text, "/root"));
        assert_eq!(fs::read_dir(&log_dir).unwrap().count(), 1);

        let error = scripts.rename("old", out.clone()).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "OS rename script failed (exited with exit code 4), last lines in the log file:\nwas old"
        );

        // A dump of another device than the instance's own, and its way into that.
        let dump = root.path().join("dump");
        let other = root.path().join("snapshot");
        scripts.export(0, &other, File::create(&dump).unwrap(), out.clone()).await.unwrap();
        scripts.import(0, File::open(&dump).unwrap(), out.clone()).await.unwrap();
        let text = fs::read_to_string(&disk).unwrap();
        assert_eq!(text, format!("dump of {} 0\n", other.display()));

        // Without an operating system the bytes are moved as they are; the disk keeps its length.
        scripts.os = None;
        scripts.spec.os = String::new();
        fs::write(&other, b"content").unwrap();
        fs::write(&disk, vec![1; 4096]).unwrap();
        scripts.export(0, &other, File::create(&dump).unwrap(), out.clone()).await.unwrap();
        scripts.import(0, File::open(&dump).unwrap(), out.clone()).await.unwrap();
        let bytes = fs::read(&disk).unwrap();
        assert_eq!((&bytes[..7], bytes.len()), (&b"content"[..], 4096));
        let error = scripts.create(false, out).await.unwrap_err().to_string();
        assert_eq!(error, "instance web.example.com has no operating system");
    }

    #[tokio::test]
    async fn hidden_values_are_masked_wherever_output_goes() {
        let root = tempfile::tempdir().unwrap();
        let tell = "#!/bin/sh\necho \"password=$OSP_PASSWORD;\" >&2; exit 1\n";
        let files = [
            ("ganeti_api_version", "20\n"),
            ("create", tell),
            ("export", tell),
            ("import", tell),
            ("rename", tell),
            ("verify", tell),
            ("parameters.list", "password\n"),
        ];
        define(root.path(), "os", &files);
        let os = super::super::read("os", &[root.path().to_owned()]).unwrap();
        let values = json!({"password": "hush-hush"}).as_object().unwrap().clone();
        let params = OsParams { values, debug_level: 0, hidden: vec!["hush-hush".into()] };
        let error = validate(&os, "os", &params, false).await.unwrap_err().to_string();
        assert!(error.ends_with("output: password=<redacted>;\n"), "{error}");
        let log_dir = root.path().join("log");
        let mut spec = spec();
        spec.os = "os".to_owned();
        let disks = vec![root.path().join("disk0")];
        let scripts = Scripts { os: Some(os), spec, params, disks, log_dir: log_dir.clone() };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let out: Feedback = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
        let error = scripts.create(false, out).await.unwrap_err().to_string();
        assert!(error.ends_with("\npassword=<redacted>;"), "{error}");
        assert_eq!(*lines.lock().unwrap(), ["password=<redacted>;"]);
        let log = fs::read_dir(&log_dir).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(log).unwrap(), "password=<redacted>;\n");
    }

    #[tokio::test]
    async fn parameters_are_validated() {
        let root = tempfile::tempdir().unwrap();
        let os = definition(root.path());
        let check = async |name: &str, params: Value, force: bool, expected: &str| {
            let values = params.as_object().unwrap().clone();
            let params = OsParams { values, ..OsParams::default() };
            let result = validate(&os, name, &params, force).await;
            let text = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(text, expected);
        };
        let good = json!({"dhcp-on": "yes"});
        check("os+small", good.clone(), false, "").await;
        check("os+big", good.clone(), true, "").await;
        check("os+big", good.clone(), false, "OS 'os' does not support variant 'big'").await;
        check("os", good, false, "OS name 'os' must include a variant").await;
        let unknown = "The following parameters are not supported by the OS os: x";
        check("os+small", json!({"x": 1}), false, unknown).await;
        let bad = "OS validation script failed (exited with exit code 1), output: bad\n";
        check("os+small", json!({"dhcp-on": "no"}), false, bad).await;
    }
}
