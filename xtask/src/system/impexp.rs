//! Transfers between a node of ours and Ganeti's own import-export daemon, in both directions: what is sent arrives whole.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use node::{
    Awaited, Destination, Feedback, InstanceSpec, Node, OsParams, Sending, TransferOptions, World,
    WorldSetup,
};
use serde_json::{Value, json};

const DAEMON: &str = "/usr/lib/ganeti/import-export";
/// Makes a key and a certificate as Ganeti does: RSA, X.509 version 1.
const MAKE_CERTIFICATE: &str = "import sys\nsys.path.insert(0, '/usr/share/ganeti/default')\nfrom ganeti import utils\n\
    key, cert = utils.GenerateSelfSignedX509Cert('ganeti.example.com', 86400, 1)\n\
    open('key', 'wb').write(key)\nopen('cert', 'wb').write(cert)\n";
const MAGIC: &str = "4b8f1a2c9d";
/// What is dumped: 1.3 MB.
const DUMP: &str = "seq 1 200000";
/// How long the daemon may take until it listens, and until it ends.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// One end of ours and one of Ganeti's.
struct Ends {
    dir: PathBuf,
    node: Arc<node::FakeNode>,
    instance: InstanceSpec,
    key_name: String,
}

/// Sends a dump to Ganeti's daemon and has it send one, with and without compression.
pub(crate) async fn run(dir: &Path) -> Result<()> {
    let ends = Ends::new(dir).await?;
    for compress in ["none", "gzip"] {
        ends.sends(compress).await.with_context(|| format!("to Ganeti, {compress}"))?;
        ends.receives(compress).await.with_context(|| format!("from Ganeti, {compress}"))?;
    }
    Ok(())
}

impl Ends {
    async fn new(dir: &Path) -> Result<Self> {
        fs::create_dir(dir)?;
        let os = dir.join("os/stream");
        fs::create_dir_all(&os)?;
        for name in ["create", "export", "import", "rename", "verify"] {
            let text = match name {
                "export" => DUMP.to_owned(),
                "import" => format!("cat > {}", dir.join("ours").display()),
                _ => String::new(),
            };
            fs::write(os.join(name), format!("#!/bin/sh\n{text}\n"))?;
            fs::set_permissions(os.join(name), fs::Permissions::from_mode(0o755))?;
        }
        fs::write(os.join("ganeti_api_version"), "20\n")?;
        fs::write(os.join("parameters.list"), "")?;
        let setup = WorldSetup { os_search_path: vec![dir.join("os")], ..WorldSetup::default() };
        let node = World::temporary(setup)?.node("node1.example.com");
        let (key_name, certificate) = node.create_certificate(Duration::from_secs(86_400)).await?;
        fs::write(dir.join("ca"), certificate)?;
        let mut python = Command::new("/usr/bin/python3");
        crate::machine::run(python.args(["-c", MAKE_CERTIFICATE]).current_dir(dir))?;
        let instance = serde_json::from_value(json!({
            "name": "web.example.com", "uuid": "u-1", "ctime": 1.0, "mtime": 2.0, "tags": [],
            "primary_node": "node1.example.com", "secondary_nodes": [], "os": "stream", "hypervisor": "fake",
            "hvparams": {}, "beparams": {}, "osparams": {}, "nics": [], "network_port": null,
            "disks": [{"uuid": "d-1", "name": null, "iv_name": "disk/0", "dev_type": "plain",
                       "logical_id": ["xenvg", "d-1"], "size_mib": 64, "mode": "rw", "spindles": null, "nodes": [],
                       "params": {}, "children": []}],
        }))?;
        Ok(Self { dir: dir.to_owned(), node, instance, key_name })
    }

    fn options(&self, compress: &str) -> Result<TransferOptions> {
        Ok(TransferOptions {
            key_name: self.key_name.clone(),
            peer: fs::read_to_string(self.dir.join("cert"))?,
            magic: MAGIC.to_owned(),
            compress: compress.to_owned(),
        })
    }

    fn daemon(&self, mode: &str, compress: &str, more: &[String]) -> Result<Daemon> {
        let status = self.dir.join("status");
        if status.exists() {
            fs::remove_file(&status)?;
        }
        let output = fs::File::create(self.dir.join("log"))?;
        let child = Command::new(DAEMON)
            .arg(&status)
            .arg(mode)
            .args(["--key=key", "--cert=cert", "--ca=ca", "--ipv4"])
            .arg(format!("--magic={MAGIC}"))
            .arg(format!("--compress={compress}"))
            .args(more)
            .current_dir(&self.dir)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot run import-export")?;
        Ok(Daemon { child, dir: self.dir.clone() })
    }

    fn arrived(&self, name: &str) -> Result<()> {
        let expected: String = (1..=200_000).map(|at| format!("{at}\n")).collect();
        let found = fs::read_to_string(self.dir.join(name))?;
        ensure!(found == expected, "{} of {} bytes arrived", found.len(), expected.len());
        Ok(())
    }

    async fn sends(&self, compress: &str) -> Result<()> {
        let mut daemon = self.daemon("import", compress, &["--cmd-suffix=> theirs".to_owned()])?;
        let port = daemon.port().await?;
        let options = self.options(compress)?;
        let sending = Sending {
            instance: &self.instance,
            index: 0,
            disk: &self.instance.disks[0],
            destination: &Destination { host: "127.0.0.1".to_owned(), port },
            options: &options,
            params: &OsParams::default(),
            connected: Box::new(|| {}),
        };
        let sent = self.node.send_disk(sending, quiet()).await;
        sent.with_context(|| daemon.said())?;
        daemon.ended().await?;
        self.arrived("theirs")
    }

    async fn receives(&self, compress: &str) -> Result<()> {
        let (options, params) = (self.options(compress)?, OsParams::default());
        let awaited = Awaited {
            instance: &self.instance,
            index: 0,
            options: &options,
            address: "127.0.0.1",
            limit: LIMIT,
            params: &params,
            connected: Box::new(|| {}),
        };
        let waiting = self.node.receive_disk(awaited, quiet()).await?;
        let more = [
            format!("--host={}", waiting.host),
            format!("--port={}", waiting.port),
            "--connect-retries=3".to_owned(),
            "--connect-timeout=20".to_owned(),
            format!("--cmd-prefix={DUMP} |"),
        ];
        let mut daemon = self.daemon("export", compress, &more)?;
        let received = waiting.done.await;
        received.with_context(|| daemon.said())?;
        daemon.ended().await?;
        self.arrived("ours")
    }
}

fn quiet() -> Feedback {
    Arc::new(|_| {})
}

/// Ganeti's daemon; killed when it is dropped.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{} {}", read("status"), read("log"))
    }

    async fn port(&mut self) -> Result<u16> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            let text = fs::read_to_string(self.dir.join("status")).unwrap_or_default();
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            let port = &status["listen_port"];
            // It is a text in the file.
            let port = port.as_str().map_or_else(|| port.to_string(), str::to_owned);
            if let Ok(port) = port.parse() {
                return Ok(port);
            }
            if let Some(ended) = self.child.try_wait()? {
                bail!("import-export ended, {ended}: {}", self.said());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("import-export does not listen: {}", self.said())
    }

    async fn ended(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if let Some(ended) = self.child.try_wait()? {
                ensure!(ended.success(), "import-export ended, {ended}: {}", self.said());
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("import-export does not end: {}", self.said())
    }
}
