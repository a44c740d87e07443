//! Operating systems, exports and moves, through the remote API: scripts and what they may not tell, a live export of a real
//! guest, and instances that Ganeti's own `move-instance` brings from one cluster of ours to another. Ganeti's daemon for
//! transfers is tried first.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::guest::{Viewer, first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place, Server, USER};

/// What nobody is to find anywhere, and what nobody is to find in logs.
const SECRET: &str = "secret-value-5f1c";
const PRIVATE: &str = "private-value-9a2e";
const MOVE_INSTANCE: &str = "/usr/lib/ganeti/tools/move-instance";
/// How long a move may take, in seconds.
const MOVE_LIMIT: &str = "300";

/// Makes two clusters of this machine that share their operating systems.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let program = machine::rapid("debug")?;
    let mut clock = Clock(Instant::now());
    let mut places = Vec::new();
    for name in ["alpha", "beta"] {
        let dir = base.path().join(name);
        fs::create_dir(&dir)?;
        let place = Place::new(program.clone(), &dir)?;
        place.init(&[&format!("{name}.example.com")])?;
        places.push(place);
    }
    let [alpha, beta] = places.as_slice() else { bail!("two clusters are made") };
    let mut install = Command::new(&program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(alpha.data_dir()))?;
    define(&alpha.data_dir().join("os/probe"))?;
    symlink(alpha.data_dir().join("os"), beta.data_dir().join("os"))?;
    clock.lap("tiny was built");
    let runtime = server::runtime()?;
    runtime.block_on(super::impexp::run(&base.path().join("impexp")))?;
    clock.lap("disks went to and from Ganeti's daemon");
    runtime.block_on(async {
        let (first, second) = (alpha.start(&["--debug"]).await?, beta.start(&["--debug"]).await?);
        let test = Test { alpha, beta, first, second };
        let done = test.all(&mut clock).await;
        let Test { first, second, .. } = test;
        for (place, server) in [(alpha, first), (beta, second)] {
            end_instances(&server).await?;
            let said = server.said();
            server.stop().await?;
            if done.is_ok() {
                hides(place, &said)?;
            }
        }
        clock.lap("no file and no log tells what is hidden");
        done
    })
}

/// A definition whose scripts say what they are given, the secret too.
fn define(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let tell = "echo \"probe $1: level=$DEBUG_LEVEL size=$OSP_SIZE token=$OSP_TOKEN password=$OSP_PASSWORD\"";
    let files = [
        ("ganeti_api_version", "20\n15\n10\n".to_owned()),
        ("parameters.list", "size how large\ntoken kept\npassword not kept\n".to_owned()),
        ("variants.list", "plain\n".to_owned()),
        (
            "create",
            format!(
                "{tell}\necho reinstall=$INSTANCE_REINSTALL variant=$OS_VARIANT\nyes $INSTANCE_NAME | head -c 3000000 > $DISK_0_PATH.new\n\
                     dd if=$DISK_0_PATH.new of=$DISK_0_PATH conv=notrunc status=none\nrm $DISK_0_PATH.new\nenv >&2\n"
            ),
        ),
        ("export", format!("{{ {tell} $EXPORT_INDEX; env; }} >&2\nexec cat $EXPORT_DEVICE\n")),
        (
            "import",
            format!(
                "{tell}\nexec dd of=$IMPORT_DEVICE bs=1M iflag=fullblock conv=notrunc status=none\n"
            ),
        ),
        ("rename", format!("{tell}\necho renamed $OLD_INSTANCE_NAME to $INSTANCE_NAME\n")),
        ("verify", format!("{tell}\n[ \"$1\" = parameters ] && [ \"$OSP_SIZE\" != bad ]\n")),
    ];
    for (name, text) in files {
        let is_script = !name.contains('.') && name != "ganeti_api_version";
        let text = if is_script { format!("#!/bin/sh\nset -e\n{text}") } else { text };
        fs::write(dir.join(name), text)?;
        let mode = if is_script { 0o755 } else { 0o644 };
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

struct Test<'a> {
    alpha: &'a Place,
    beta: &'a Place,
    first: Server,
    second: Server,
}

impl Test<'_> {
    async fn all(&self, clock: &mut Clock) -> Result<()> {
        let client = self.first.client()?;
        let node = first_node(&client).await?;
        self.scripts(&client, &node).await?;
        clock.lap("scripts were run, refused, run again");
        self.images(&client, &node).await?;
        clock.lap("disks were made of images");
        self.there_and_back(&client, &node).await?;
        clock.lap("an instance was exported and imported");
        let viewer = self.live_export(&client, &node).await?;
        drop(viewer);
        clock.lap("a running guest was exported, and its twin booted");
        self.moves(&client, &node, clock).await
    }

    async fn scripts(&self, client: &Client, node: &str) -> Result<()> {
        let mut asked = probe("probe.example.com", node, "8");
        asked["osparams"]["size"] = json!("bad");
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
        let job = client.wait(job, |_| {}).await?;
        ensure!(job["status"] == "error", "a bad parameter is refused: {job}");
        says(
            &job,
            "OS validation script failed (exited with exit code 1), output: probe parameters: level=0 size=bad token=<redacted> password=<redacted>",
        )?;

        asked["osparams"]["size"] = json!("8");
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
        let job = succeed(client, job, |_| {}).await?;
        says(&job, "probe : level=0 size=8 token=<redacted> password=<redacted>")?;
        says(&job, "reinstall= variant=plain")?;
        let path = "/2/instances/probe.example.com";
        let again = json!({"os": "probe+plain", "start": false, "osparams": {"size": "9"}});
        let job =
            client.submit(Method::Post, &format!("{path}/reinstall"), &[], Some(&again)).await?;
        let job = succeed(client, job, |_| {}).await?;
        says(&job, "reinstall=1")?;
        // A reinstallation through the API forgets the private ones.
        let change = json!({"osparams_private": {"token": PRIVATE}});
        let job = client.submit(Method::Put, &format!("{path}/modify"), &[], Some(&change)).await?;
        let job = succeed(client, job, |_| {}).await?;
        ensure!(!job.to_string().contains(PRIVATE), "the change is told as <redacted>");
        let name = json!({"new_name": "other.example.com", "ip_check": false, "name_check": false});
        let job = client.submit(Method::Put, &format!("{path}/rename"), &[], Some(&name)).await?;
        let job = succeed(client, job, |_| {}).await?;
        says(&job, "renamed probe.example.com to other.example.com")
    }

    /// Disks that begin as images: a file of the machine, and one that is fetched.
    async fn images(&self, client: &Client, node: &str) -> Result<()> {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let path = self.alpha.path("image");
        fs::write(&path, &content)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/image", listener.local_addr()?);
        let served = content.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                let count = stream.read(&mut asked).await?;
                let found = asked[..count].starts_with(b"GET /image ");
                let (status, body) =
                    if found { ("200 OK", &served[..]) } else { ("404 No", &b""[..]) };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(body).await?;
                stream.shutdown().await?;
            }
            std::io::Result::Ok(())
        });
        for image in [path.display().to_string(), url.clone()] {
            let mut asked = probe("image.example.com", node, "8");
            asked["osparams"] = json!({"os-image": image});
            asked["os_type"] = Value::Null;
            asked["osparams_private"] = json!({});
            asked["osparams_secret"] = json!({});
            let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
            succeed(client, job, |_| {}).await?;
            let bytes = disk(self.alpha, "image.example.com")?;
            ensure!(
                bytes.starts_with(&content) && bytes.len() == 8 << 20,
                "{image} is on the disk"
            );
            let job =
                client.submit(Method::Delete, "/2/instances/image.example.com", &[], None).await?;
            succeed(client, job, |_| {}).await?;
        }
        server.abort();
        Ok(())
    }

    async fn there_and_back(&self, client: &Client, node: &str) -> Result<()> {
        let path = "/2/instances/other.example.com";
        let body = json!({"destination": node, "shutdown": false});
        let job = client.submit(Method::Put, &format!("{path}/export"), &[], Some(&body)).await?;
        let job = succeed(client, job, |_| {}).await?;
        ensure!(job["opresult"] == json!([[true, [true]]]), "the export: {job}");
        says(&job, "probe : level=0 size=9 token=<redacted> password= 0")?;
        let exports = self.alpha.data_dir().join("export/other.example.com");
        let config = fs::read_to_string(exports.join("config.ini"))?;
        for line in [
            "[export]",
            "version = 0",
            "os = probe+plain",
            "disk0_ivname = disk/0",
            "disk_count = 1",
            "nic0_network = None",
        ] {
            ensure!(
                config.lines().any(|found| found == line),
                "config.ini has no {line}: {config}"
            );
        }
        let import = json!({
            "__version__": 1, "mode": "import", "instance_name": "copy.example.com", "name_check": false,
            "ip_check": false, "disk_template": "file", "disks": [], "nics": [{"mode": "user"}], "pnode": node, "src_node": node,
            "src_path": "other.example.com", "start": false,
        });
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&import)).await?;
        let job = succeed(client, job, |_| {}).await?;
        says(&job, "renamed other.example.com to copy.example.com")?;
        let disk = |name: &str| disk(self.alpha, name);
        ensure!(disk("copy.example.com")? == disk("other.example.com")?, "the bytes are the same");
        ensure!(
            disk("copy.example.com")?.starts_with(b"probe.example.com\n"),
            "those of the create script"
        );
        let copy = client.call(Method::Get, "/2/instances/copy.example.com", &[], None).await?;
        ensure!(copy["custom_osparams"]["size"] == "9", "its parameters: {copy}");
        let job = client.submit(Method::Delete, "/2/instances/copy.example.com", &[], None).await?;
        succeed(client, job, |_| {}).await?;
        let job = client.submit(Method::Delete, &format!("{path}/export"), &[], None).await?;
        succeed(client, job, |_| {}).await?;
        ensure!(!exports.exists(), "the export is removed");
        Ok(())
    }

    /// A guest is exported while it runs; what it had written by then boots again under another name.
    async fn live_export(&self, client: &Client, node: &str) -> Result<Viewer> {
        let data_dir = self.alpha.data_dir();
        let mut asked = request("web.example.com", node, "Hello from the first");
        asked["disks"] = json!([{"size": 128}, {"size": 16}]);
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
        succeed(client, job, |_| {}).await?;
        let mut viewer = Viewer::attach(&data_dir, "web.example.com", |_| {}).await?;
        viewer.wait("GUEST-UP web.example.com").await?;
        viewer.line("kept=in-memory; echo on-disk > /root/mark; echo second-disk > /dev/vdb; sync; echo is-$((1 + 1))").await?;
        viewer.wait("is-2").await?;
        let path = "/2/instances/web.example.com";
        let body = json!({"destination": node, "shutdown": false});
        let job = client.submit(Method::Put, &format!("{path}/export"), &[], Some(&body)).await?;
        let job = succeed(client, job, |_| {}).await?;
        ensure!(job["opresult"] == json!([[true, [true, true]]]), "the export: {job}");
        says(&job, &format!("Creating a snapshot of disk/1 on node {node}"))?;
        says(&job, &format!("Exporting snapshot/0 from {node} to {node}"))?;
        says(&job, &format!("Removing snapshot of disk/1 on node {node}"))?;
        viewer
            .line("echo $kept-$((2 + 2)); echo later > /root/mark; sync; echo is-$((2 + 1))")
            .await?;
        viewer.wait("in-memory-4").await?;
        viewer.wait("is-3").await?;
        let left = fs::read_dir(data_dir.join("snapshots"))?.count();
        ensure!(left == 0, "{left} copies of disks are left");

        let import = json!({
            "__version__": 1, "mode": "import", "instance_name": "twin.example.com", "name_check": false,
            "ip_check": false, "disk_template": "file", "disks": [], "pnode": node, "src_node": node,
            "src_path": "web.example.com", "start": true, "nics": [{"mode": "user"}],
        });
        let job = client.submit(Method::Post, "/2/instances", &[], Some(&import)).await?;
        succeed(client, job, |_| {}).await?;
        let mut twin = Viewer::attach(&data_dir, "twin.example.com", |_| {}).await?;
        twin.wait("GUEST-UP twin.example.com").await?;
        twin.line("cat /root/mark; head -n 1 /dev/vdb; echo is-$((3 + 1))").await?;
        twin.wait("on-disk").await?;
        twin.wait("second-disk").await?;
        twin.wait("is-4").await?;
        let body = json!({"shutdown_timeout": 0});
        let job = client
            .submit(Method::Delete, "/2/instances/twin.example.com", &[], Some(&body))
            .await?;
        succeed(client, job, |_| {}).await?;
        Ok(viewer)
    }

    async fn moves(&self, client: &Client, node: &str, clock: &mut Clock) -> Result<()> {
        let before = disk(self.alpha, "other.example.com")?;
        let said = self.move_instance(node, &["--compress=gzip", "other.example.com"], false)?;
        ensure!(
            said.contains("clusters don't share the same domain secret"),
            "the secrets differ: {said}"
        );
        let secret = self.alpha.path("domain-secret");
        fs::write(&secret, "shared by alpha and beta\n")?;
        for place in [self.alpha, self.beta] {
            let mut renew = Command::new(&place.program);
            renew.args(["cluster", "renew-crypto", "--cluster-domain-secret"]).arg(&secret);
            machine::run(renew.arg("--data-dir").arg(place.data_dir()))?;
        }
        self.move_instance(node, &["--compress=gzip", "other.example.com"], true)?;
        ensure!(disk(self.beta, "other.example.com")? == before, "the bytes are the same");
        clock.lap("an instance was moved, byte by byte");

        self.move_instance(node, &["web.example.com"], true)?;
        let mut viewer = Viewer::attach(&self.beta.data_dir(), "web.example.com", |_| {}).await?;
        viewer.wait("GUEST-UP web.example.com").await?;
        viewer.line("cat /root/mark; head -n 1 /dev/vdb; echo is-$((4 + 1))").await?;
        viewer.wait("later").await?;
        viewer.wait("second-disk").await?;
        viewer.wait("is-5").await?;
        let left = client.call(Method::Get, "/2/instances", &[], None).await?;
        ensure!(left == json!([]), "nothing is left where they came from: {left}");
        for place in [self.alpha, self.beta] {
            let left = keys(&place.data_dir().join("crypto"))?;
            // The source's keys are removed once their time is over, as Ganeti's.
            let is_target = place.dir == self.beta.dir;
            ensure!(!is_target || left == 0, "{left} keys are left");
        }
        clock.lap("a guest was moved and booted");
        Ok(())
    }

    /// Runs Ganeti's tool; answers what it said.
    fn move_instance(&self, node: &str, more: &[&str], succeeds: bool) -> Result<String> {
        let password = self.alpha.path("password");
        fs::write(&password, format!("{}\n", USER.1))?;
        let port =
            |server: &Server| server.address.rsplit(':').next().unwrap_or_default().to_owned();
        let option = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let pem = |place: &Place| place.data_dir().join("rapi.pem");
        let output = Command::new("timeout")
            .args([MOVE_LIMIT, MOVE_INSTANCE, "--verbose"])
            .arg(option("src-ca-file", &pem(self.alpha).display()))
            .arg(option("dest-ca-file", &pem(self.beta).display()))
            .arg(option("src-rapi-port", &port(&self.first)))
            .arg(option("dest-rapi-port", &port(&self.second)))
            .arg(option("src-username", &USER.0))
            .arg(option("src-password-file", &password.display()))
            .arg(option("dest-primary-node", &node))
            // Without a number of them the tool compares nothing with a number, and ends (3.0.2).
            .arg("--opportunistic-tries=0")
            .args(["localhost", "localhost"])
            .args(more)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .context("cannot run move-instance")?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success() == succeeds, "move-instance: {}: {said}", output.status);
        Ok(said)
    }
}

/// The request for an instance that is never started.
fn probe(name: &str, node: &str, size: &str) -> Value {
    json!({
        "__version__": 1, "mode": "create", "instance_name": name, "pnode": node, "name_check": false,
        "ip_check": false, "os_type": "probe+plain", "hypervisor": "kvm", "hvparams": {"kernel_path": ""},
        "osparams": {"size": size}, "osparams_private": {"token": PRIVATE},
        "osparams_secret": {"password": SECRET}, "beparams": {"maxmem": 128, "minmem": 128, "vcpus": 1},
        "disk_template": "file", "disks": [{"size": 8}], "nics": [{"mode": "user"}], "start": false,
    })
}

/// Whether a job says something in its log or its results.
fn says(job: &Value, text: &str) -> Result<()> {
    fn found(value: &Value, text: &str) -> bool {
        match value {
            Value::String(own) => own.contains(text),
            Value::Array(all) => all.iter().any(|value| found(value, text)),
            Value::Object(all) => all.values().any(|value| found(value, text)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    ensure!(found(job, text), "the job does not say {text:?}: {job}");
    Ok(())
}

/// The bytes of an instance's first disk.
fn disk(place: &Place, instance: &str) -> Result<Vec<u8>> {
    let dir = place.data_dir().join("file-storage").join(instance);
    let first = fs::read_dir(&dir).with_context(|| dir.display().to_string())?.next();
    let path = first.with_context(|| format!("{} is empty", dir.display()))??.path();
    Ok(fs::read(path)?)
}

fn keys(dir: &Path) -> Result<usize> {
    Ok(if dir.exists() { fs::read_dir(dir)?.count() } else { 0 })
}

/// Removes all instances: they would outlive the test.
async fn end_instances(server: &Server) -> Result<()> {
    let client = server.client()?;
    let all = client.call(Method::Get, "/2/instances", &[], None).await?;
    for instance in all.as_array().into_iter().flatten() {
        let path = format!("/2/instances/{}", instance["id"].as_str().unwrap_or_default());
        let body = json!({"shutdown_timeout": 0});
        let job = client.submit(Method::Delete, &path, &[], Some(&body)).await?;
        succeed(&client, job, |_| {}).await?;
    }
    Ok(())
}

/// Looks for hidden values in everything that a cluster wrote: the secret nowhere, the private one in no log.
fn hides(place: &Place, said: &str) -> Result<()> {
    for value in [SECRET, PRIVATE] {
        ensure!(!said.contains(value), "the log tells {value}: {said}");
    }
    let mut seen = 0;
    for path in files(&place.data_dir())? {
        seen += 1;
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let holds = |value: &str| bytes.windows(value.len()).any(|part| part == value.as_bytes());
        ensure!(!holds(SECRET), "{} holds the secret", path.display());
        let is_log = path.starts_with(place.data_dir().join("log"));
        ensure!(!is_log || !holds(PRIVATE), "{} tells a private value", path.display());
    }
    ensure!(seen > 3, "{} has only {seen} files", place.data_dir().display());
    Ok(())
}

/// All regular files below a data directory but the operating systems, which tell their own.
fn files(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![data_dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.path() != data_dir.join("os") {
                left.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Says how long each part took.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:6.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
