//! Ganeti's own tools, unmodified, on a simulated cluster of ours: each row of `xtask/tools.txt` is run, and what it says and does
//! is looked at. Every subcommand that a tool has must be in the table. Then Ganeti's Python daemon runs on the same cluster.

#![expect(clippy::print_stdout, reason = "a test says what it found")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rapi::client::{Client, Trust};
use rapi::input::Method;
use serde_json::{Value, json};

use crate::machine;
use crate::server::{self, Place, USER};
use crate::tools::{Look, Table};

const MASTER: &str = "node1.gnt.example";
const NODES: &str = "node1.gnt.example,node2.gnt.example,node3.gnt.example,node4.gnt.example";
/// How long one command may take, in seconds.
const COMMAND_LIMIT: &str = "60";
/// How long Ganeti's daemon may take until it answers.
const DAEMON_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// Who Ganeti's daemon wants to be.
const DAEMON_USER: &str = "gnt-rapi";

pub(crate) fn run() -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "Ganeti's daemon changes its user, so this part has to be run as root");
    let table = Table::read()?;
    let base = tempfile::tempdir()?;
    // The daemon's user looks for its files below.
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755))?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    make(&place)?;
    let root = place.path("vc").join(MASTER);
    let runtime = server::runtime()?;
    let here = root.display().to_string();
    let server = runtime.block_on(place.start(&["--compat", "3.0", "--ganeti-root", &here]))?;
    let mut tools =
        Tools { root: root.clone(), dir: base.path().to_owned(), kept: BTreeMap::new() };
    let done = tools.all(&table).and_then(|()| runtime.block_on(stock_daemon(&tools, &place)));
    runtime.block_on(server.stop())?;
    done
}

/// The cluster, and the files that some commands read.
fn make(place: &Place) -> Result<()> {
    let os = place.noop()?;
    // The machine may have definitions of the other name.
    fs::rename(os.join("noop"), os.join("blank"))?;
    let os = os.display().to_string();
    let mut hosts = String::from("10.77.0.1 cluster.gnt.example cluster\n");
    for node in 1..=4 {
        hosts += &format!("10.77.0.{} node{node}.gnt.example node{node}\n", 10 + node);
    }
    for instance in 1..=9 {
        hosts += &format!("10.77.1.{instance} inst{instance}.gnt.example inst{instance}\n");
    }
    fs::create_dir_all(place.data_dir())?;
    fs::write(place.data_dir().join("hosts"), hosts)?;
    let instance = |name: &str| {
        json!({
            "instance_name": name, "mode": "create", "disk_template": "diskless", "disks": [], "nics": [],
            "os_type": "blank+default", "start": false,
        })
    };
    let batch = json!([instance("inst8.gnt.example"), instance("inst9.gnt.example")]);
    fs::write(place.path("batch.json"), batch.to_string())?;
    let tags =
        json!([{"OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": ["green"], "name": null}]);
    fs::write(place.path("job.json"), tags.to_string())?;
    let path = |name: &str| place.path(name).display().to_string();
    place.init(&[
        "--simulate-nodes",
        NODES,
        "--enabled-hypervisors",
        "kvm,fake",
        "--enabled-disk-templates",
        "drbd,plain,sharedfile,file,diskless",
        "--file-storage-dir",
        &path("file"),
        "--shared-file-storage-dir",
        &path("shared"),
        "--nic-parameters",
        "mode=bridged,link=br0",
        "--os-search-path",
        &os,
        "--ipolicy-bounds-specs",
        "min:disk-size=0,cpu-count=1,disk-count=0,memory-size=1,nic-count=0,spindle-use=0\
         /max:disk-size=1048576,cpu-count=8,disk-count=16,memory-size=32768,nic-count=8,spindle-use=12",
        "-H",
        "kvm:kernel_path=,serial_console=true",
        "--compat",
        "3.0",
        "cluster.gnt.example",
    ])
}

/// The tools, as they find the cluster.
struct Tools {
    root: PathBuf,
    dir: PathBuf,
    /// What stands for names in commands to come.
    kept: BTreeMap<String, String>,
}

impl Tools {
    fn all(&mut self, table: &Table) -> Result<()> {
        let mut wrong = self.unnamed(table)?;
        for step in &table.steps {
            let looks = std::iter::once(&step.look).chain(&step.then);
            for look in looks {
                if let Err(error) = self.look(look) {
                    println!("{error:#}");
                    wrong.push(look.command.clone());
                }
            }
        }
        let looks: usize = table.steps.iter().map(|step| 1 + step.then.len()).sum();
        println!("{} command lines of the table, {looks} looks", table.steps.len());
        ensure!(wrong.is_empty(), "{} are wrong: {}", wrong.len(), wrong.join("; "));
        Ok(())
    }

    /// Subcommands that a tool has and the table does not name, and the other way round.
    fn unnamed(&self, table: &Table) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (tool, named) in table.named() {
            let help = self.run(&format!("{tool} --help"))?;
            let text = String::from_utf8_lossy(&help.stdout).into_owned();
            let has: BTreeSet<&str> = subcommands(&text).collect();
            ensure!(!has.is_empty(), "{tool} --help names no commands: {text}");
            let named: BTreeSet<&str> = named.into_iter().collect();
            for name in has.symmetric_difference(&named) {
                println!("{tool} {name} is either not in the table or no command of the tool");
                wrong.push(format!("{tool} {name}"));
            }
        }
        Ok(wrong)
    }

    fn run(&self, command: &str) -> Result<Output> {
        let mut line = Command::new("timeout");
        line.arg(COMMAND_LIMIT).args(command.split_whitespace());
        self.surround(&mut line).current_dir(&self.dir).stdin(Stdio::null());
        line.output().with_context(|| format!("cannot run {command}"))
    }

    /// Gives a command the environment by which Ganeti's programs find the cluster.
    fn surround<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("GANETI_ROOTDIR", &self.root)
            .env("GANETI_HOSTNAME", MASTER)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    fn look(&mut self, look: &Look) -> Result<()> {
        let command = self.filled(&look.command);
        let output = self.run(&command)?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let shown = || format!("{command}\n{}\n", said.trim_end());
        ensure!(output.status.success() != look.fails, "{}{}", shown(), output.status);
        let flat = flat(&said);
        for text in &look.says {
            let text = self.filled(text);
            ensure!(flat.contains(&text), "{}does not say: {text}", shown());
        }
        for text in &look.lacks {
            let text = self.filled(text);
            ensure!(!flat.contains(&text), "{}says: {text}", shown());
        }
        if let Some(name) = &look.keep {
            let found = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').find(|word| {
                let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
                is_number || model::name::Uuid::is_form(word)
            });
            let found = found.with_context(|| format!("{}nothing to keep", shown()))?;
            self.kept.insert(name.clone(), found.to_owned());
        }
        Ok(())
    }

    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.kept {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }
}

/// Lines joined, blanks counted once.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The commands that a tool's help names: a line each, one blank before.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands"));
    lines.filter_map(|line| {
        let name = line.strip_prefix(' ')?;
        name.starts_with(|c: char| c.is_ascii_lowercase()).then(|| name.split(' ').next())?
    })
}

/// Ganeti's own remote API daemon; killed when it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts Ganeti's Python daemon on the same cluster and asks it, and has it submit a job.
async fn stock_daemon(tools: &Tools, place: &Place) -> Result<()> {
    let data = tools.root.join("var/lib/ganeti");
    for (from, to) in [
        (place.data_dir().join("rapi.pem"), data.join("rapi.pem")),
        (place.path("users"), data.join("rapi/users")),
    ] {
        let mut install = Command::new("install");
        install.args(["-o", DAEMON_USER, "-g", DAEMON_USER, "-m", "400"]).arg(from).arg(to);
        machine::run(&mut install)?;
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={DAEMON_USER}"))
        .arg(format!("--regid={DAEMON_USER}"))
        .args(["--init-groups", "ganeti-rapi", "-f", "-b", "127.0.0.1", "-p"])
        .arg(port.to_string());
    let log = place.path("ganeti-rapi.log");
    let output = fs::File::create(&log)?;
    tools.surround(&mut command).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut daemon = Daemon(command.spawn().context("cannot start ganeti-rapi")?);
    let client = Client::new(&format!("https://127.0.0.1:{port}"), &Trust::Any)?;
    let client = client.user(USER.0, USER.1);
    let begun = Instant::now();
    let info = loop {
        match client.call(Method::Get, "/2/info", &[], None).await {
            Ok(info) => break info,
            Err(error) => {
                let ended = daemon.0.try_wait()?;
                if ended.is_some() || begun.elapsed() > DAEMON_LIMIT {
                    bail!("ganeti-rapi does not answer: {error}: {}", read(&log));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    ensure!(info["name"] == "cluster.gnt.example", "ganeti-rapi says {info}");
    let ask = async |path: &str| -> Result<Value> {
        let answer = client.call(Method::Get, path, &[], None).await;
        answer.with_context(|| format!("ganeti-rapi, {path}: {}", read(&log)))
    };
    let nodes = ask("/2/nodes").await?;
    ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 4), "ganeti-rapi says {nodes}");
    let instances = ask("/2/instances").await?;
    ensure!(instances.to_string().contains("inst4.gnt.example"), "ganeti-rapi says {instances}");
    let os = ask("/2/os").await?;
    ensure!(os.to_string().contains("blank+default"), "ganeti-rapi says {os}");
    let tags = "/2/instances/inst4.gnt.example/tags";
    let job = client.submit(Method::Put, tags, &[("tag", "by-the-daemon")], None).await?;
    let ended = tokio::time::timeout(DAEMON_LIMIT, client.wait(job, |_| ())).await??;
    ensure!(ended["status"] == "success", "a job of ganeti-rapi: {ended}");
    let tags = ask(tags).await?;
    ensure!(tags == json!(["by-the-daemon"]), "ganeti-rapi says {tags}");
    println!("ganeti-rapi answers and submits");
    Ok(())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}
