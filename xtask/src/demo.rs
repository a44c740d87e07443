//! `cargo xtask demo`: a real virtual machine, made through the remote API on this machine, from nothing. A second run says
//! what is there already; `cargo xtask demo --stop` stops and removes everything.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rand::Rng;
use rapi::client::{Client, Trust};
use rapi::input::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::guest::{Viewer, first_node, request, succeed};
use crate::machine::{self, cargo, run};
use crate::test::QEMU;

const NAME: &str = "demo.example.com";
const USER: &str = "demo";
/// There is a cluster in a data directory that has this file.
const DATABASE: &str = "rapid.db";
/// How long the server may take until it answers, and to stop.
const SERVER_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Boot a real guest through the remote API.
#[derive(Args)]
pub(crate) struct Demo {
    /// Stop the demo's server and its guest, and remove everything that the demo made.
    #[arg(long)]
    stop: bool,
}

/// The demo's server, remembered between runs.
#[derive(Serialize, Deserialize)]
struct State {
    address: String,
    password: String,
    pid: u32,
}

/// Where the demo keeps its things.
struct Place {
    program: PathBuf,
    data_dir: PathBuf,
}

impl Demo {
    /// Does what was asked.
    pub(crate) fn run(&self) -> Result<()> {
        let data_dir = machine::root().canonicalize()?.join("demo-data");
        let runtime = crate::server::runtime()?;
        if self.stop {
            if !data_dir.exists() {
                println!("There is no demo to stop.");
                return Ok(());
            }
            let place = Place { program: machine::rapid("debug")?, data_dir };
            return runtime.block_on(place.stop());
        }
        heading("The packages that a real guest needs");
        machine::packages(QEMU)?;
        heading("The program");
        run(cargo().args(["build", "--package", "rapid"]))?;
        let place = Place { program: machine::rapid("debug")?, data_dir };
        heading("A small Linux, made of Debian packages");
        place.install_tiny()?;
        runtime.block_on(place.show())
    }
}

fn heading(text: &str) {
    println!("\n── {text}");
}

fn show(text: &str) {
    print!("{}", text.replace('\r', ""));
    // What does not show yet shows with the next line.
    let _ = std::io::stdout().flush();
}

impl Place {
    fn state_file(&self) -> PathBuf {
        self.data_dir.join("demo.json")
    }

    fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.state_file()).ok()?).ok()
    }

    fn install_tiny(&self) -> Result<()> {
        let os = self.data_dir.join("os");
        if node::tiny::is_installed(&os) {
            println!("is there already: {}", os.join("tiny").display());
            return Ok(());
        }
        fs::create_dir_all(&self.data_dir).context("demo-data cannot be made")?;
        let mut install = Command::new(&self.program);
        run(install.args(["os", "install", "tiny", "--data-dir"]).arg(&self.data_dir))
    }

    /// Everything after the installation.
    async fn show(&self) -> Result<()> {
        heading("The server");
        let (state, client) = self.serve().await?;
        heading("The instance, by POST /2/instances");
        self.instance(&client).await?;
        heading("Its console, until it is up");
        let mut viewer = Viewer::attach(&self.data_dir, NAME, show).await?;
        viewer.wait(&format!("GUEST-UP {NAME}")).await?;
        heading("The running instance, by GET /2/instances/demo.example.com");
        let path = format!("/2/instances/{NAME}");
        let instance = client.call(Method::Get, &path, &[], None).await?;
        println!("{}", serde_json::to_string_pretty(&instance)?);
        ensure!(instance["status"] == "running", "{NAME} does not run");
        if instance["disk.sizes"] == json!([128]) {
            self.changes(&client, &mut viewer).await?;
        }
        let (program, data_dir) = (short(&self.program), short(&self.data_dir));
        let State { address, password, pid } = &state;
        heading("It runs, and stays");
        println!("remote API   {address}   (process {pid}, log {data_dir}/server.log)");
        println!("login        user {USER}, password {password}");
        println!("ask it       curl -k -u {USER}:{password} {address}/2/instances/{NAME}");
        println!("console      {program} console --data-dir {data_dir} {NAME}   (Ctrl-] leaves)");
        println!("stop it all  cargo xtask demo --stop");
        Ok(())
    }

    /// What can be done while it runs. The guest itself says what it sees of it.
    async fn changes(&self, client: &Client, viewer: &mut Viewer) -> Result<()> {
        let path = format!("/2/instances/{NAME}");
        let modify = format!("{path}/modify");
        let sectors = "echo SECTORS $(cat /sys/block/vd?/size)";
        // The guest's kernel takes a moment to see what was plugged in.
        let there =
            "n=0; until [ -e /sys/block/vdb ] || [ $n = 50 ]; do sleep 0.1; n=$((n + 1)); done";
        heading(
            "Its disk grows by 64 MiB while it runs, by POST /2/instances/demo.example.com/disk/0/grow",
        );
        let grow = json!({"amount": 64});
        self.job(client, Method::Post, &format!("{path}/disk/0/grow"), &grow).await?;
        viewer.line(sectors).await?;
        viewer.wait("SECTORS 393216").await?;
        heading("A second disk is plugged in, by PUT /2/instances/demo.example.com/modify");
        let add = json!({"disks": [["add", -1, {"size": 32}]], "hotplug": true});
        self.job(client, Method::Put, &modify, &add).await?;
        viewer.line(&format!("{there}; {sectors}")).await?;
        viewer.wait("SECTORS 393216 65536").await?;
        heading(
            "A snapshot of it is exported while it runs, by PUT /2/instances/demo.example.com/export",
        );
        let node = first_node(client).await?;
        let export = json!({"mode": "local", "destination": node, "shutdown": false});
        self.job(client, Method::Put, &format!("{path}/export"), &export).await?;
        let exports = self.data_dir.join("export").join(NAME);
        for entry in fs::read_dir(&exports).with_context(|| exports.display().to_string())? {
            let entry = entry?;
            println!("  {:>9} bytes  {}", entry.metadata()?.len(), short(&entry.path()));
        }
        heading("The second disk is pulled out and removed");
        let remove = json!({"disks": [["remove", 1, {}]], "hotplug": true});
        self.job(client, Method::Put, &modify, &remove).await?;
        viewer.line(sectors).await?;
        viewer.wait("SECTORS 393216").await?;
        Ok(())
    }

    /// Has a job done, and shows what it says.
    async fn job(&self, client: &Client, method: Method, path: &str, body: &Value) -> Result<()> {
        println!("{body}");
        let job = client.submit(method, path, &[], Some(body)).await?;
        succeed(client, job, |entry| println!("  {}", log_line(entry))).await?;
        println!("job {job} succeeded");
        Ok(())
    }

    /// A server that answers: the one that runs, or a new one.
    async fn serve(&self) -> Result<(State, Client)> {
        if let Some(state) = self.state() {
            let client = Client::new(&state.address, &Trust::Any)?.user(USER, &state.password);
            if client.call(Method::Get, "/2/info", &[], None).await.is_ok() {
                println!("runs already: {}", state.address);
                return Ok((state, client));
            }
        }
        let password = match self.state() {
            Some(state) => state.password,
            None => self.add_user()?,
        };
        let port = if TcpListener::bind(("127.0.0.1", 5080)).is_ok() { "5080" } else { "0" };
        let log = self.data_dir.join("server.log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--port", port, "--data-dir"]).arg(&self.data_dir);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // What ends this command at the terminal leaves the server alone.
        let mut child = command.process_group(0).spawn().context("rapid serve")?;
        let begun = Instant::now();
        loop {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if let Some(address) = crate::server::address(&said) {
                let state = State { address, password, pid: child.id() };
                let client = Client::new(&state.address, &Trust::Any)?.user(USER, &state.password);
                client.call(Method::Get, "/2/info", &[], None).await?;
                private(&self.state_file(), &serde_json::to_string(&state)?)?;
                println!("listens at {}", state.address);
                return Ok((state, client));
            }
            if let Some(status) = child.try_wait()? {
                bail!("rapid serve ended, {status}: {}", said.trim());
            }
            if begun.elapsed() > SERVER_LIMIT {
                child.kill()?;
                bail!("rapid serve does not listen: {}", said.trim());
            }
            sleep(LOOK).await;
        }
    }

    /// Makes the user of the demo and gives its password.
    fn add_user(&self) -> Result<String> {
        let letters = "abcdefghijkmnpqrstuvwxyz23456789".as_bytes();
        let letter = |_| char::from(letters[rand::rng().random_range(0..letters.len())]);
        let password: String = (0..16).map(letter).collect();
        let mut command = Command::new(&self.program);
        command.args(["user", "add", USER, "--options", "read,write", "--password-stdin"]);
        let mut child = command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("rapid user add")?;
        child.stdin.take().context("no standard input")?.write_all(password.as_bytes())?;
        ensure!(child.wait()?.success(), "rapid user add failed");
        Ok(password)
    }

    /// The instance is there and runs.
    async fn instance(&self, client: &Client) -> Result<()> {
        let path = format!("/2/instances/{NAME}");
        let job = match client.call(Method::Get, &path, &[], None).await {
            Ok(instance) if instance["status"] == "running" => {
                println!("{NAME} runs already");
                return Ok(());
            }
            Ok(instance) => {
                println!("{NAME} is there, {}; it is started", instance["status"]);
                client.submit(Method::Put, &format!("{path}/startup"), &[], None).await?
            }
            Err(error) if error.code == 404 => {
                let node = first_node(client).await?;
                let greeting = "Hello! This guest was made by a POST.";
                let asked = request(NAME, &node, greeting);
                println!("{asked:#}");
                client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?
            }
            Err(error) => return Err(error.into()),
        };
        println!("is job {job}");
        succeed(client, job, |entry| println!("  {}", log_line(entry))).await?;
        println!("job {job} succeeded");
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        if self.data_dir.join(DATABASE).exists() {
            let (state, client) = self.serve().await?;
            let bulk = client.call(Method::Get, "/2/instances", &[], None).await?;
            for instance in bulk.as_array().into_iter().flatten() {
                let name = instance["id"].as_str().unwrap_or_default();
                println!("removing {name}");
                let path = format!("/2/instances/{name}");
                let asked = json!({"shutdown_timeout": 0});
                let job = client.submit(Method::Delete, &path, &[], Some(&asked)).await?;
                succeed(&client, job, |_| {}).await?;
            }
            println!("stopping the server");
            end(state.pid, &self.data_dir).await?;
        }
        fs::remove_dir_all(&self.data_dir).context("demo-data cannot be removed")?;
        println!("Nothing of the demo is left.");
        Ok(())
    }
}

/// Ends the demo's server, and no other process that may have got its number.
async fn end(pid: u32, data_dir: &Path) -> Result<()> {
    let is_ours = || {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&*data_dir.to_string_lossy())
    };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process")?;
    let begun = Instant::now();
    if is_ours() {
        kill_process(number, Signal::TERM)?;
    }
    while is_ours() {
        ensure!(begun.elapsed() < SERVER_LIMIT, "the server, process {pid}, does not stop");
        sleep(LOOK).await;
    }
    Ok(())
}

/// A log entry of a job: `[serial, [seconds, microseconds], type, message]`.
fn log_line(entry: &Value) -> String {
    match &entry[3] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A path as it can be typed here.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Writes a file that only its owner reads.
fn private(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(path).with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
