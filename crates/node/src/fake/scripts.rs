//! The scripts that a simulated node really runs: operating system definitions, hooks, instance allocators. Disks are
//! stand-ins, empty files that live as long as the script.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::param::DiskTemplate;
use model::python;
use serde_json::Value;
use tokio::process::Command;

use crate::spec::{InstanceSpec, NicSpec};
use crate::{Feedback, HookPhase, HookResult, HookStatus, NodeError, OsInfo, OsParams, Result};

/// How many lines of a failed script's output go into the error.
const TAIL_LINES: usize = 20;

/// The search path of programs that scripts get.
const SCRIPT_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

/// The versions of the operating system interface that are spoken.
const OS_API_VERSIONS: [i64; 3] = [10, 15, 20];

/// What a script left behind.
pub(super) struct Ran {
    pub(super) ok: bool,
    /// Why it failed: `exited with exit code 1`.
    pub(super) reason: String,
    /// Standard output and standard error.
    pub(super) output: String,
    pub(super) stdout: Vec<u8>,
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// A script and what it is run with.
pub(super) struct Script<'a> {
    pub(super) program: &'a Path,
    pub(super) args: Vec<String>,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) dir: Option<&'a Path>,
    pub(super) stdin: Option<std::fs::File>,
    pub(super) timeout: Duration,
}

impl Script<'_> {
    /// Runs it to its end.
    pub(super) async fn run(self) -> Result<Ran> {
        let mut command = Command::new(self.program);
        command.args(&self.args).env_clear().envs(self.env).kill_on_drop(true);
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        command.stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = self.program.display();
        let run = tokio::time::timeout(self.timeout, command.output()).await;
        let done = match run {
            Err(_) => {
                let seconds = self.timeout.as_secs();
                return Err(failed(format!("{name} still ran after {seconds} s and was ended")));
            }
            Ok(Err(error)) => return Err(failed(format!("cannot run {name}: {error}"))),
            Ok(Ok(done)) => done,
        };
        let reason = match done.status.code() {
            Some(code) => format!("exited with exit code {code}"),
            None => {
                use std::os::unix::process::ExitStatusExt;
                format!("terminated by signal {}", done.status.signal().unwrap_or(0))
            }
        };
        let mut output = String::from_utf8_lossy(&done.stdout).into_owned();
        output.push_str(&String::from_utf8_lossy(&done.stderr));
        Ok(Ran { ok: done.status.success(), reason, output, stdout: done.stdout })
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The names in a directory that do not start with a dot, sorted; none when it cannot be read.
fn visible_names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// A file of lines, without comments and empty ones.
fn lines(path: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines = text.lines().map(str::trim);
    Some(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Into::into).collect())
}

/// Reads a definition's directory; the error says why it is not one.
fn read_os(name: &str, dir: &Path) -> Result<OsInfo, String> {
    let at = dir.display();
    let api_file = dir.join("ganeti_api_version");
    let text = std::fs::read_to_string(&api_file).map_err(|_| {
        format!(
            "Required file 'ganeti_api_version' not found under path {at}: No such file or directory"
        )
    })?;
    let api_versions: Option<Vec<i64>> =
        text.lines().map(|line| line.trim().parse().ok()).collect();
    let api_versions = api_versions.ok_or("API version(s) can't be converted to integer")?;
    if !api_versions.iter().any(|version| OS_API_VERSIONS.contains(version)) {
        return Err(format!(
            "API version mismatch for path '{at}': found {api_versions:?}, want {OS_API_VERSIONS:?}."
        ));
    }
    let newest = api_versions.iter().copied().max().unwrap_or(0);
    let verify: &[&str] = if newest >= 20 { &["verify"] } else { &[] };
    for script in ["export", "import", "rename"].iter().chain(verify) {
        let path = dir.join(script);
        if !path.exists() {
            return Err(format!(
                "File '{script}' under path '{at}' is missing (No such file or directory)"
            ));
        }
        if !is_executable(&path) {
            return Err(format!("File '{script}' under path '{at}' is not executable"));
        }
    }
    let trusted = is_executable(&dir.join("create"));
    if !trusted && !is_executable(&dir.join("create_untrusted")) {
        return Err(format!("A create script (trusted or untrusted) under path '{at}' must exist"));
    }
    let variants =
        if newest >= 15 { lines(&dir.join("variants.list")).unwrap_or_default() } else { vec![] };
    let mut parameters = Vec::new();
    if newest >= 20 {
        let rows = lines(&dir.join("parameters.list")).ok_or_else(|| {
            format!(
                "File 'parameters.list' under path '{at}' is missing (No such file or directory)"
            )
        })?;
        for row in rows {
            let (name, doc) = row.split_once(char::is_whitespace).unwrap_or((&row, ""));
            parameters.push((name.to_owned(), doc.trim().to_owned()));
        }
    }
    Ok(OsInfo {
        name: name.to_owned(),
        path: dir.display().to_string(),
        valid: true,
        diagnose: String::new(),
        variants,
        parameters,
        api_versions,
        trusted: !dir.join("create_untrusted").exists(),
    })
}

/// Every definition in the search path, the unusable ones too.
pub(super) fn list_os(search_path: &[PathBuf]) -> Vec<OsInfo> {
    let mut all = Vec::new();
    for top in search_path {
        for name in visible_names(top) {
            let dir = top.join(&name);
            all.push(read_os(&name, &dir).unwrap_or_else(|diagnose| OsInfo {
                name,
                path: dir.display().to_string(),
                valid: false,
                diagnose,
                variants: Vec::new(),
                parameters: Vec::new(),
                api_versions: Vec::new(),
                trusted: true,
            }));
        }
    }
    all
}

/// Finds the definition that an instance's `os` names.
pub(super) fn find_os(search_path: &[PathBuf], os: &str) -> Result<OsInfo> {
    let name = os.split('+').next().unwrap_or_default();
    let found = search_path.iter().map(|top| top.join(name)).find(|dir| dir.is_dir());
    let dir =
        found.ok_or_else(|| failed(format!("Directory for OS {name} not found in search path")))?;
    read_os(name, &dir).map_err(failed)
}

fn check_variant(info: &OsInfo, os: &str) -> Result<()> {
    let name = &info.name;
    match (os.split_once('+').map(|(_, variant)| variant), info.variants.is_empty()) {
        (None, true) => Ok(()),
        (Some(variant), true) => {
            Err(failed(format!("OS '{name}' does not support variants ('{variant}' passed)")))
        }
        (None | Some(""), false) => Err(failed(format!("OS name '{os}' must include a variant"))),
        (Some(variant), false) => {
            let known = info.variants.iter().any(|one| one == variant);
            let text = || failed(format!("OS '{name}' does not support variant '{variant}'"));
            known.then_some(()).ok_or_else(text)
        }
    }
}

/// Checks a variant and parameters, the latter with the definition's own script.
pub(super) async fn validate_os(
    search_path: &[PathBuf],
    os: &str,
    params: &OsParams,
    force_variant: bool,
    timeout: Duration,
) -> Result<()> {
    let info = find_os(search_path, os)?;
    if !force_variant {
        check_variant(&info, os)?;
    }
    if info.api_versions.iter().copied().max().unwrap_or(0) < 20 {
        return Ok(());
    }
    let known = |name: &String| info.parameters.iter().any(|(known, _)| known == name);
    let unknown: Vec<&str> =
        params.values.keys().filter(|name| !known(name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let text = "The following parameters are not supported by the OS";
        return Err(failed(format!("{text} {}: {}", info.name, unknown.join(", "))));
    }
    let dir = PathBuf::from(&info.path);
    let ran = Script {
        program: &dir.join("verify"),
        args: vec!["parameters".into()],
        env: &core_env(&info, os, params),
        dir: Some(&dir),
        stdin: None,
        timeout,
    }
    .run()
    .await?;
    if ran.ok {
        return Ok(());
    }
    let (reason, output) = (ran.reason, ran.output);
    Err(failed(format!("OS validation script failed ({reason}), output: {output}")))
}

/// The environment that every script of a definition gets.
fn core_env(info: &OsInfo, os: &str, params: &OsParams) -> BTreeMap<String, String> {
    let spoken = info.api_versions.iter().filter(|version| OS_API_VERSIONS.contains(version));
    let version = spoken.max().copied().unwrap_or(10);
    let named = os.split_once('+').map(|(_, variant)| variant.to_owned());
    let variant = match info.variants.first() {
        Some(first) if version >= 15 => {
            named.filter(|name| !name.is_empty()).unwrap_or_else(|| first.clone())
        }
        _ => String::new(),
    };
    let mut env = BTreeMap::from([
        ("OS_API_VERSION".to_owned(), version.to_string()),
        ("OS_NAME".to_owned(), info.name.clone()),
        ("OS_VARIANT".to_owned(), variant),
        ("DEBUG_LEVEL".to_owned(), params.debug_level.to_string()),
        ("PATH".to_owned(), SCRIPT_PATH.to_owned()),
    ]);
    for (name, value) in &params.values {
        let name = name.to_uppercase().replace('-', "_");
        env.insert(format!("OSP_{name}"), python::str(value));
    }
    env
}

fn nic_env(env: &mut BTreeMap<String, String>, index: usize, nic: &NicSpec, frontend: &str) {
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            env.insert(format!("NIC_{index}_{name}"), value.to_owned());
        }
    };
    put("MAC", Some(&nic.mac));
    put("UUID", Some(nic.uuid.as_str()));
    put("NAME", nic.name.as_deref());
    put("IP", nic.ip.as_deref());
    put("MODE", Some(&nic.mode));
    put("BRIDGE", Some(nic.link.as_str()).filter(|_| nic.mode == "bridged"));
    put("LINK", Some(nic.link.as_str()).filter(|link| !link.is_empty()));
    put("FRONTEND_TYPE", Some(frontend).filter(|frontend| !frontend.is_empty()));
    if let Some(network) = &nic.network {
        put("NETWORK_NAME", Some(&network.name));
        put("NETWORK_UUID", Some(network.uuid.as_str()));
        put("NETWORK_TAGS", Some(&network.tags.join(" ")));
        put("NETWORK_SUBNET", Some(&network.subnet));
        put("NETWORK_GATEWAY", network.gateway.as_deref());
        put("NETWORK_SUBNET6", network.subnet6.as_deref());
        put("NETWORK_GATEWAY6", network.gateway6.as_deref());
        put("NETWORK_MAC_PREFIX", network.mac_prefix.as_deref());
    }
}

/// The environment that the scripts get which work on an instance; `disks` are the stand-ins, in order.
fn instance_env(
    info: &OsInfo,
    instance: &InstanceSpec,
    params: &OsParams,
    disks: &[PathBuf],
) -> BTreeMap<String, String> {
    let mut env = core_env(info, &instance.os, params);
    let mut put = |name: String, value: String| {
        env.insert(name, value);
    };
    put("INSTANCE_NAME".into(), instance.name.clone());
    put("INSTANCE_OS".into(), instance.os.clone());
    put("INSTANCE_UUID".into(), instance.uuid.to_string());
    put("INSTANCE_CTIME".into(), instance.ctime.to_string());
    put("INSTANCE_MTIME".into(), instance.mtime.to_string());
    put("INSTANCE_PRIMARY_NODE".into(), instance.primary_node.clone());
    put("INSTANCE_SECONDARY_NODES".into(), instance.secondary_nodes.join(" "));
    put("HYPERVISOR".into(), instance.hypervisor.to_string());
    put("DISK_COUNT".into(), instance.disks.len().to_string());
    put("NIC_COUNT".into(), instance.nics.len().to_string());
    for (index, (disk, path)) in instance.disks.iter().zip(disks).enumerate() {
        let mut put = |name: &str, value: String| put(format!("DISK_{index}_{name}"), value);
        put("ACCESS", disk.mode.clone());
        put("UUID", disk.uuid.to_string());
        put("SIZE", disk.size_mib.to_string());
        put("PATH", path.display().to_string());
        if let Some(name) = &disk.name {
            put("NAME", name.clone());
        }
        if !instance.hv("disk_type").is_empty() {
            put("FRONTEND_TYPE", instance.hv("disk_type").to_owned());
        }
        let backend = match disk.dev_type {
            DiskTemplate::File | DiskTemplate::Sharedfile | DiskTemplate::Gluster => {
                let driver = disk.logical_id.first().and_then(Value::as_str).unwrap_or("loop");
                format!("file:{driver}")
            }
            DiskTemplate::Blockdev
            | DiskTemplate::Drbd
            | DiskTemplate::Ext
            | DiskTemplate::Plain
            | DiskTemplate::Rbd => "block".to_owned(),
            DiskTemplate::Diskless => continue,
        };
        put("BACKEND_TYPE", backend);
    }
    for (name, value) in &instance.beparams {
        put(format!("INSTANCE_BE_{name}"), python::str(value));
    }
    for (name, value) in &instance.hvparams {
        put(format!("INSTANCE_HV_{name}"), python::str(value));
    }
    for (index, nic) in instance.nics.iter().enumerate() {
        nic_env(&mut env, index, nic, instance.hv("nic_type"));
    }
    env
}

/// What a script of a definition is run for.
pub(super) struct OsScript<'a> {
    pub(super) search_path: &'a [PathBuf],
    pub(super) instance: &'a InstanceSpec,
    pub(super) params: &'a OsParams,
    /// The file in the definition's directory.
    pub(super) script: &'a str,
    pub(super) extra: Vec<(&'static str, String)>,
    /// The disk that is dumped or restored, for `export` and `import`: the variable prefix and the index.
    pub(super) device: Option<(&'static str, usize)>,
    pub(super) stdin: Option<std::fs::File>,
    pub(super) timeout: Duration,
}

impl OsScript<'_> {
    /// Runs it and answers what it wrote; what it said goes to `out`.
    pub(super) async fn run(self, out: &Feedback) -> Result<Vec<u8>> {
        let info = find_os(self.search_path, &self.instance.os)?;
        let dir = PathBuf::from(&info.path);
        let stand_ins = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let mut disks = Vec::new();
        for index in 0..self.instance.disks.len() {
            let path = stand_ins.path().join(format!("disk{index}"));
            std::fs::File::create(&path).map_err(|error| failed(error.to_string()))?;
            disks.push(path);
        }
        let mut env = instance_env(&info, self.instance, self.params, &disks);
        for (name, value) in self.extra {
            env.insert(name.to_owned(), value);
        }
        if let Some((prefix, index)) = self.device {
            let path = disks.get(index).map(|path| path.display().to_string()).unwrap_or_default();
            env.insert(format!("{prefix}_DEVICE"), path);
            env.insert(format!("{prefix}_INDEX"), index.to_string());
        }
        let mut program = dir.join(self.script);
        if self.script == "create" && !program.exists() {
            program = dir.join("create_untrusted");
        }
        let script = Script {
            program: &program,
            args: Vec::new(),
            env: &env,
            dir: Some(&dir),
            stdin: self.stdin,
            timeout: self.timeout,
        };
        let ran = script.run().await?;
        for line in ran.output.lines().filter(|_| self.device.is_none()) {
            out(line);
        }
        if ran.ok {
            return Ok(ran.stdout);
        }
        let lines: Vec<&str> = ran.output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        let (script, reason) = (self.script, ran.reason);
        Err(failed(format!(
            "OS {script} script failed ({reason}), last lines in the log file:\n{}",
            tail.join("\n")
        )))
    }
}

/// Runs the hooks of a path and phase, in the order of their names.
pub(super) async fn run_hooks(
    base: &Path,
    path: &str,
    phase: HookPhase,
    env: &BTreeMap<String, String>,
    timeout: Duration,
) -> Vec<HookResult> {
    let subdir = format!("{path}-{}.d", phase.as_str());
    let dir = base.join(&subdir);
    let mut results = Vec::new();
    for name in visible_names(&dir) {
        let script = format!("{subdir}/{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let program = dir.join(&name);
        if !name.chars().all(plain) || !is_executable(&program) {
            let (status, output) = (HookStatus::Skipped, String::new());
            results.push(HookResult { script, status, output });
            continue;
        }
        let run = Script { program: &program, args: vec![], env, dir: None, stdin: None, timeout };
        let (status, output) = match run.run().await {
            Ok(ran) if ran.ok => (HookStatus::Success, ran.output.trim().to_owned()),
            Ok(ran) => (HookStatus::Failed, ran.output.trim().to_owned()),
            Err(error) => (HookStatus::Failed, format!("Hook script execution error: {error}")),
        };
        results.push(HookResult { script, status, output });
    }
    results
}

/// Runs an instance allocator on a request and answers what it printed.
pub(super) async fn run_iallocator(
    search_path: &[PathBuf],
    name: &str,
    options: &[String],
    request: &Value,
    timeout: Duration,
) -> Result<String> {
    let found = search_path.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    let program = found.ok_or_else(|| {
        failed(format!("iallocator module '{name}' not found in the search path"))
    })?;
    let input = || -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix("ganeti-iallocator.").tempfile()?;
        file.write_all(request.to_string().as_bytes())?;
        Ok(file)
    };
    let input = input().map_err(|error| failed(error.to_string()))?;
    let mut args = vec![input.path().display().to_string()];
    args.extend_from_slice(options);
    let env = BTreeMap::from([("PATH".to_owned(), SCRIPT_PATH.to_owned())]);
    let run = Script { program: &program, args, env: &env, dir: None, stdin: None, timeout };
    let ran = run.run().await?;
    if ran.ok {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let (reason, output) = (ran.reason, ran.output);
    Err(failed(format!("iallocator module '{name}' failed: {reason}, output '{output}'")))
}
