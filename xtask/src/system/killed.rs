//! Each operation on an instance of this machine, killed at every place where it touches the world: the server is told to end
//! itself there, as `kill -9` would, and started again. What runs then is what the API says; what belongs to nothing is told of in
//! the log; the same call, or a removal, puts everything right.
//!
//! `RAPID_KILLED_ONLY` names the operations to try, separated by commas.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rapi::client::Client;
use rapi::input::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::guest::{first_node, succeed};
use crate::machine;
use crate::server::{self, Place, Server};

const NAME: &str = "web.example.com";
const OTHER: &str = "other.example.com";
const PATH: &str = "/2/instances/web.example.com";
/// How long a job may take until it is killed or has ended.
const JOB_LIMIT: Duration = Duration::from_secs(90);
/// How long it may take after a start until what belongs to nothing is told of.
const REPORT_LIMIT: Duration = Duration::from_secs(5);
/// More places than any operation passes.
const NEVER: usize = 1_000_000;
/// Over TLS everything takes longer and nothing is proved by it.
const PLAIN: &[&str] = &["--no-ssl"];

/// What has to be there before an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Stopped,
    Running,
    Exported,
    /// Stopped, and its disk is gone.
    Broken,
}

/// A call that is killed wherever it touches the world.
struct Operation {
    name: &'static str,
    before: Before,
    method: Method,
    path: &'static str,
    body: fn(&str) -> Value,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "create",
        before: Before::Nothing,
        method: Method::Post,
        path: "/2/instances",
        body: |node| create(node, true),
    },
    Operation {
        name: "startup",
        before: Before::Stopped,
        method: Method::Put,
        path: "/2/instances/web.example.com/startup",
        body: |_| json!({}),
    },
    Operation {
        name: "shutdown",
        before: Before::Running,
        method: Method::Put,
        path: "/2/instances/web.example.com/shutdown",
        body: |_| json!({"timeout": 0}),
    },
    Operation {
        name: "reboot",
        before: Before::Running,
        method: Method::Post,
        path: "/2/instances/web.example.com/reboot?type=hard",
        body: |_| json!({"shutdown_timeout": 0}),
    },
    Operation {
        name: "grow",
        before: Before::Stopped,
        method: Method::Post,
        path: "/2/instances/web.example.com/disk/0/grow",
        body: |_| json!({"amount": 8}),
    },
    Operation {
        name: "grow-online",
        before: Before::Running,
        method: Method::Post,
        path: "/2/instances/web.example.com/disk/0/grow",
        body: |_| json!({"amount": 8}),
    },
    Operation {
        name: "balloon",
        before: Before::Running,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"runtime_mem": 96}),
    },
    Operation {
        name: "add-disk",
        before: Before::Stopped,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"disks": [["add", -1, {"size": 16}]]}),
    },
    Operation {
        name: "plug",
        before: Before::Running,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"disks": [["add", -1, {"size": 16}]], "hotplug": true}),
    },
    Operation {
        name: "unplug",
        before: Before::Running,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"disks": [["remove", 0, {}]], "hotplug": true}),
    },
    Operation {
        name: "remove-disk",
        before: Before::Stopped,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"disks": [["remove", 0, {}]]}),
    },
    Operation {
        name: "recreate-disks",
        before: Before::Broken,
        method: Method::Post,
        path: "/2/instances/web.example.com/recreate-disks",
        body: |_| json!({"disks": [[0, {}]]}),
    },
    Operation {
        name: "convert",
        before: Before::Stopped,
        method: Method::Put,
        path: "/2/instances/web.example.com/modify",
        body: |_| json!({"disk_template": "sharedfile"}),
    },
    Operation {
        name: "reinstall",
        before: Before::Stopped,
        method: Method::Post,
        path: "/2/instances/web.example.com/reinstall",
        body: |_| json!({"os": "noop+default", "start": true}),
    },
    Operation {
        name: "rename",
        before: Before::Stopped,
        method: Method::Put,
        path: "/2/instances/web.example.com/rename",
        body: |_| json!({"new_name": "other.example.com", "ip_check": false, "name_check": false}),
    },
    Operation {
        name: "export",
        before: Before::Running,
        method: Method::Put,
        path: "/2/instances/web.example.com/export",
        body: |node| json!({"mode": "local", "destination": node, "long_sleep": true, "shutdown": true, "shutdown_timeout": 0}),
    },
    Operation {
        name: "import",
        before: Before::Exported,
        method: Method::Post,
        path: "/2/instances",
        body: import,
    },
    Operation {
        name: "remove",
        before: Before::Running,
        method: Method::Delete,
        path: PATH,
        body: |_| json!({"shutdown_timeout": 0}),
    },
];

/// The request for an instance with a system that does nothing.
fn create(node: &str, start: bool) -> Value {
    json!({
        "__version__": 1, "mode": "create", "instance_name": NAME, "pnode": node, "name_check": false, "ip_check": false,
        "os_type": "noop+default", "hypervisor": "kvm", "beparams": {"maxmem": 128, "minmem": 64, "vcpus": 1},
        "hvparams": {"kernel_path": ""}, "disk_template": "file", "disks": [{"size": 16}], "nics": [{"mode": "user"}], "start": start,
    })
}

fn import(node: &str) -> Value {
    let mut asked = create(node, true);
    asked["mode"] = json!("import");
    asked["src_node"] = json!(node);
    asked["src_path"] = json!(NAME);
    asked
}

/// Kills and looks.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    place.init(&["--enabled-disk-templates=file,sharedfile,diskless", "killed.example.com"])?;
    fs::rename(place.noop()?, place.data_dir().join("os"))?;
    let _guests = Guests(place.data_dir());
    let only = std::env::var("RAPID_KILLED_ONLY").ok();
    let chosen =
        |name: &str| only.as_deref().is_none_or(|only| only.split(',').any(|one| one == name));
    server::runtime()?.block_on(async {
        for operation in OPERATIONS.iter().filter(|operation| chosen(operation.name)) {
            let begun = Instant::now();
            let places = Trial { place: &place, operation }.all().await?;
            println!(
                "{:6.2} s  {}: {places} places",
                begun.elapsed().as_secs_f64(),
                operation.name
            );
        }
        Ok(())
    })
}

/// One operation, tried.
struct Trial<'a> {
    place: &'a Place,
    operation: &'a Operation,
}

/// What is on this machine beside the API.
#[derive(Debug)]
struct Found {
    /// The UUIDs of what QEMU runs, and the process.
    guests: Vec<(String, u32)>,
    /// Files of disks, and exports.
    files: BTreeSet<PathBuf>,
}

impl Trial<'_> {
    fn order(&self) -> PathBuf {
        self.place.path("kill-at")
    }

    fn points(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("kill-at.points")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn start(&self) -> Result<Server> {
        let mut command = Command::new(&self.place.program);
        command.env("RAPID_KILL_AT", self.order());
        self.place.start_by(command, PLAIN).await
    }

    /// Without a crash first, to learn the places; then with a crash at each. Answers how many there are.
    async fn all(&self) -> Result<usize> {
        let mut server = self.start().await?;
        self.prepare(&server).await?;
        let job = self.go(&mut server, NEVER).await?;
        let job = job.context("the server ended without being told to")?;
        let name = self.operation.name;
        ensure!(job["status"] == "success", "{name} without a crash: {}", job["opresult"]);
        let points = self.points();
        ensure!(!points.is_empty(), "{} touches nothing", self.operation.name);
        self.clear(&server, &BTreeSet::new()).await.context("after it was done")?;
        for (at, point) in points.iter().enumerate() {
            let tried = self.crash(server, at + 1).await;
            server = tried.with_context(|| {
                format!(
                    "{} killed at place {} of {}, {point}",
                    self.operation.name,
                    at + 1,
                    points.len()
                )
            })?;
        }
        server.stop().await?;
        Ok(points.len())
    }

    async fn prepare(&self, server: &Server) -> Result<()> {
        let client = server.client()?;
        let node = first_node(&client).await?;
        let before = self.operation.before;
        if before == Before::Nothing {
            return Ok(());
        }
        let asked = create(&node, before == Before::Running);
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
        succeed(&client, job, |_| {}).await?;
        if before == Before::Broken {
            for path in disks(&client, &[NAME.to_owned()]).await? {
                fs::remove_file(path)?;
            }
        }
        if before == Before::Exported {
            let asked = json!({"mode": "local", "destination": node, "shutdown": true, "remove_instance": true});
            let job =
                client.submit(Method::Put, &format!("{PATH}/export"), &[], Some(&asked)).await?;
            succeed(&client, job, |_| {}).await?;
        }
        Ok(())
    }

    /// Makes the call with the order to crash at a place. Answers the job if it ended, and nothing if the server did.
    async fn go(&self, server: &mut Server, at: usize) -> Result<Option<Value>> {
        let client = server.client()?;
        let node = first_node(&client).await?;
        // The points of what came before are forgotten; there may be none.
        let _ = fs::remove_file(self.place.path("kill-at.points"));
        let order = self.place.path("kill-at.new");
        fs::write(&order, at.to_string())?;
        fs::rename(order, self.order())?;
        let ended = self.call(&client, &node).await;
        let ended = match (ended, server.ended(JOB_LIMIT.min(Duration::from_secs(2))).await?) {
            (_, true) => None,
            (Ok(job), false) => Some(job),
            (Err(error), false) => bail!("the server lives, and: {error:#}"),
        };
        // It may have been reached, or not.
        let _ = fs::remove_file(self.order());
        Ok(ended)
    }

    async fn call(&self, client: &Client, node: &str) -> Result<Value> {
        let Operation { method, path, body, .. } = self.operation;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query: Vec<(&str, &str)> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let job = client.submit(*method, path, &query, Some(&body(node))).await?;
        Ok(timeout(JOB_LIMIT, client.wait(job, |_| {})).await??)
    }

    async fn crash(&self, mut server: Server, at: usize) -> Result<Server> {
        self.prepare(&server).await?;
        if let Some(job) = self.go(&mut server, at).await? {
            // What others do at the same time may take a place more or less.
            ensure!(
                job["status"] == "success",
                "it ended as {}: {}",
                job["status"],
                job["opresult"]
            );
            println!("        {}: place {at} was not met", self.operation.name);
            self.clear(&server, &BTreeSet::new()).await?;
            return Ok(server);
        }
        let server = self.start().await?;
        let reported = self.look(&server).await.with_context(|| server.said())?;
        let client = server.client()?;
        let node = first_node(&client).await?;
        self.repair(&client, &node).await?;
        self.clear(&server, &reported).await.with_context(|| server.said())?;
        Ok(server)
    }

    /// The same call again does what was left undone, or is told that nothing was. What has got another name already gets its old
    /// one back. In the end every disk is there.
    async fn repair(&self, client: &Client, node: &str) -> Result<()> {
        if self.operation.name == "reinstall" {
            // It may run by now, and hears no polite request to stop.
            let stop = json!({"timeout": 0});
            let path = format!("{PATH}/shutdown");
            let job = client.submit(Method::Put, &path, &[], Some(&stop)).await?;
            succeed(client, job, |_| {}).await?;
        }
        let renamed = instances(client).await?.0.contains(&OTHER.to_owned());
        let job = match renamed {
            true => {
                let asked = json!({"new_name": NAME, "ip_check": false, "name_check": false});
                let path = format!("/2/instances/{OTHER}/rename");
                let job = client.submit(Method::Put, &path, &[], Some(&asked)).await?;
                client.wait(job, |_| {}).await.map_err(anyhow::Error::from)
            }
            false => self.call(client, node).await,
        };
        let said = match job {
            Ok(job) => format!("{} {}", job["status"], job["opresult"]),
            Err(error) => error.to_string(),
        };
        let fits =
            said.starts_with("\"success\"") || ALREADY.iter().any(|text| said.contains(text));
        ensure!(fits, "the call that should repair it: {said}");
        let (names, _) = instances(client).await?;
        let missing: Vec<PathBuf> =
            disks(client, &names).await?.into_iter().filter(|path| !path.exists()).collect();
        ensure!(missing.is_empty(), "disks are not there after a repair ({said}): {missing:?}");
        Ok(())
    }

    /// What runs is what the API says, and the rest is told of. Answers what was told of.
    async fn look(&self, server: &Server) -> Result<BTreeSet<PathBuf>> {
        let client = server.client()?;
        let (names, instances) = instances(&client).await?;
        let found = found(&self.place.data_dir())?;
        let mut orphans = Vec::new();
        for (uuid, pid) in &found.guests {
            if !instances.iter().any(|instance| instance["uuid"] == **uuid) {
                orphans.push(pid.to_string());
            }
        }
        for instance in &instances {
            let runs = found.guests.iter().any(|(uuid, _)| instance["uuid"] == **uuid);
            ensure!(
                instance["oper_state"] == runs,
                "{}: it runs: {runs}, and the API says {}",
                instance["name"],
                instance["status"]
            );
        }
        let known = disks(&client, &names).await?;
        let missing: Vec<&PathBuf> = known.iter().filter(|path| !path.exists()).collect();
        ensure!(missing.is_empty() || self.may_lack(), "disks are not there: {missing:?}");
        let mut left = BTreeSet::new();
        for path in found.files.iter().filter(|path| !known.contains(*path) && !is_export(path)) {
            orphans.push(path.display().to_string());
            left.insert(path.clone());
        }
        let begun = Instant::now();
        while let Some(silent) = orphans.iter().find(|orphan| !server.said().contains(*orphan)) {
            ensure!(
                begun.elapsed() < REPORT_LIMIT,
                "{silent} belongs to nothing, and nothing tells of it"
            );
            sleep(Duration::from_millis(20)).await;
        }
        Ok(left)
    }

    /// Whether a disk may be gone already when the operation dies: what it is about to forget, or makes anew.
    fn may_lack(&self) -> bool {
        ["remove", "remove-disk", "unplug", "recreate-disks", "rename"]
            .contains(&self.operation.name)
    }

    /// Takes everything away through the API; then nothing may be left but what was told of.
    async fn clear(&self, server: &Server, reported: &BTreeSet<PathBuf>) -> Result<()> {
        let client = server.client()?;
        let (names, _) = instances(&client).await?;
        for name in names {
            let asked = json!({"shutdown_timeout": 0});
            let job = client
                .submit(Method::Delete, &format!("/2/instances/{name}"), &[], Some(&asked))
                .await?;
            succeed(&client, job, |_| {}).await.with_context(|| format!("removing {name}"))?;
        }
        let found = found(&self.place.data_dir())?;
        ensure!(found.guests.is_empty(), "still running: {:?}", found.guests);
        for path in found.files {
            ensure!(is_export(&path) || reported.contains(&path), "{} is left", path.display());
            fs::remove_file(path)?;
        }
        for dir in ["file-storage", "shared-file-storage", "export"] {
            remove_below(&self.place.data_dir().join(dir))?;
        }
        let runtime: Vec<_> = fs::read_dir(self.place.data_dir().join("run/instances"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        ensure!(runtime.is_empty(), "runtime files are left: {runtime:?}");
        Ok(())
    }
}

/// What a call that was made before its crash answers when it is made again.
const ALREADY: &[&str] =
    &["already_exists", "unknown_entity", "404", "already", "No disk", "File exists"];

async fn instances(client: &Client) -> Result<(Vec<String>, Vec<Value>)> {
    let all = client.call(Method::Get, "/2/instances", &[("bulk", "1")], None).await?;
    let all = all.as_array().cloned().unwrap_or_default();
    let names =
        all.iter().filter_map(|instance| Some(instance["name"].as_str()?.to_owned())).collect();
    Ok((names, all))
}

/// The files of all disks of instances.
async fn disks(client: &Client, names: &[String]) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for name in names {
        let job =
            client.submit(Method::Get, &format!("/2/instances/{name}/info"), &[], None).await?;
        let job = succeed(client, job, |_| {}).await?;
        let disks = &job["opresult"][0][name]["disks"];
        let disks = disks
            .as_array()
            .with_context(|| format!("{name} has no disks: {}", job["opresult"]))?;
        files.extend(
            disks.iter().filter_map(|disk| disk["logical_id"][1].as_str()).map(PathBuf::from),
        );
    }
    Ok(files)
}

/// Ends what still runs when the test has failed.
struct Guests(PathBuf);

impl Drop for Guests {
    fn drop(&mut self) {
        for (_, pid) in found(&self.0).map(|found| found.guests).unwrap_or_default() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// What is there below a data directory.
fn found(data_dir: &Path) -> Result<Found> {
    let mut guests = Vec::new();
    let inside = data_dir.display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        let ours = line.iter().any(|arg| arg.contains(&inside));
        let uuid = line.iter().position(|arg| arg == "-uuid").and_then(|at| line.get(at + 1));
        if let (true, Some(uuid)) = (ours, uuid) {
            guests.push((uuid.clone(), pid));
        }
    }
    let mut files = BTreeSet::new();
    for dir in ["file-storage", "shared-file-storage", "export"] {
        collect(&data_dir.join(dir), &mut files)?;
    }
    Ok(Found { guests, files })
}

fn is_export(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "export")
}

fn collect(dir: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), files)?,
            false => drop(files.insert(entry.path())),
        }
    }
    Ok(())
}

/// Empties a directory.
fn remove_below(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        fs::remove_dir_all(entry.path())?;
    }
    Ok(())
}
