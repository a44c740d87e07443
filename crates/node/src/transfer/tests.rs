//! Two nodes in one process: what arrives, and what is sent away.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::crypto::Crypto;
use crate::spec::InstanceSpec;
use crate::{OsParams, os};

const DAY: Duration = Duration::from_secs(86_400);
const LIMIT: Duration = Duration::from_secs(20);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Sides {
    root: tempfile::TempDir,
    crypto: Crypto,
    source: (String, String),
    target: (String, String),
}

/// What a transfer came to on each side.
type Outcome = (Result<()>, Result<()>);

impl Sides {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let crypto = Crypto { dir: root.path().join("crypto") };
        let (source, target) = (crypto.create(DAY).unwrap(), crypto.create(DAY).unwrap());
        fs::write(root.path().join("from"), content()).unwrap();
        fs::write(root.path().join("to"), vec![7; content().len()]).unwrap();
        Self { root, crypto, source, target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn scripts(&self, os: Option<os::Definition>) -> Scripts {
        let spec: InstanceSpec = serde_json::from_value(json!({
            "name": "web.example.com", "uuid": "u-1", "ctime": 1.0, "mtime": 2.0, "tags": [],
            "primary_node": "n1", "secondary_nodes": [], "os": os.as_ref().map_or("", |os| &os.name),
            "hypervisor": "kvm", "hvparams": {}, "beparams": {}, "osparams": {}, "nics": [], "disks": [],
            "network_port": null,
        }))
        .unwrap();
        let (disks, log_dir) = (vec![self.path("to")], self.path("log"));
        Scripts { os, spec, params: OsParams::default(), disks, log_dir }
    }

    /// Sends the file `from` into the file `to`, after both options were changed.
    async fn run(
        &self,
        import: Option<os::Definition>,
        change: impl Fn(&mut TransferOptions, &mut TransferOptions),
    ) -> Outcome {
        let options = |key: &str, peer: &str| TransferOptions {
            key_name: key.to_owned(),
            peer: peer.to_owned(),
            magic: "0123456789abcdef".to_owned(),
            compress: "none".to_owned(),
        };
        let mut sending = options(&self.source.0, &self.target.1);
        let mut receiving = options(&self.target.0, &self.source.1);
        change(&mut sending, &mut receiving);
        let (listener, port) = listen(HERE).await.unwrap();
        let destination = Destination { host: HERE.to_string(), port };
        let (from, to) = (self.scripts(None), self.scripts(import));
        let seen = Arc::new(AtomicUsize::new(0));
        let connected = || -> Connected {
            let seen = seen.clone();
            Box::new(move || {
                seen.fetch_add(1, Ordering::SeqCst);
            })
        };
        let quiet: Feedback = Arc::new(|_| {});
        let device = self.path("from");
        let outcome = tokio::join!(
            async {
                let identity = self.crypto.load(&sending.key_name)?;
                let what = (&from, 0, device.as_path());
                send(identity, &sending, &destination, what, connected(), quiet.clone()).await
            },
            async {
                let identity = self.crypto.load(&receiving.key_name)?;
                let limit = Duration::from_secs(2);
                let what = (&to, 0);
                receive(listener, identity, &receiving, limit, what, connected(), quiet.clone())
                    .await
            }
        );
        if outcome.1.is_ok() {
            assert_eq!(seen.load(Ordering::SeqCst), 2, "both sides said that they are connected");
        }
        outcome
    }

    fn arrived(&self) -> bool {
        fs::read(self.path("to")).unwrap() == content()
    }
}

/// More than any pipe or buffer holds.
fn content() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> 28).to_le_bytes()).collect()
}

fn definition(sides: &Sides, import: &str) -> os::Definition {
    let files = [
        ("ganeti_api_version", "20\n"),
        ("create", "#!/bin/sh\n"),
        ("export", "#!/bin/sh\ncat $EXPORT_DEVICE\n"),
        ("import", import),
        ("rename", "#!/bin/sh\n"),
        ("verify", "#!/bin/sh\n"),
        ("parameters.list", "\n"),
    ];
    os::tests::define(&sides.path("os"), "small", &files);
    os::read("small", &[sides.path("os")]).unwrap()
}

fn text(result: &Result<()>) -> String {
    result.as_ref().map_or_else(ToString::to_string, |()| "fine".to_owned())
}

#[tokio::test]
async fn a_disk_arrives_byte_by_byte() {
    for compress in ["none", "gzip", "gzip-fast", "gzip-slow"] {
        let sides = Sides::new();
        let outcome = sides
            .run(None, |sending, receiving| {
                sending.compress = compress.to_owned();
                receiving.compress = compress.to_owned();
            })
            .await;
        assert_eq!(outcome, (Ok(()), Ok(())), "{compress}");
        assert!(sides.arrived(), "{compress}");
    }
}

#[tokio::test]
async fn import_scripts_are_given_the_dump_and_may_leave_it() {
    let sides = Sides::new();
    let import = definition(&sides, "#!/bin/sh\ncat > $IMPORT_DEVICE\n");
    assert_eq!(sides.run(Some(import), |_, _| {}).await, (Ok(()), Ok(())));
    assert!(sides.arrived());
    let idle = definition(&sides, "#!/bin/sh\nexit 0\n");
    assert_eq!(sides.run(Some(idle), |_, _| {}).await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_disk_that_could_not_be_filled_is_not_taken_for_sent() {
    let sides = Sides::new();
    let import = definition(&sides, "#!/bin/sh\ncat > /dev/null\necho no room\nexit 3\n");
    let (sent, received) = sides.run(Some(import), |_, _| {}).await;
    assert_eq!(text(&sent), "the other side did not take the disk");
    assert!(text(&received).ends_with("\nno room"), "{received:?}");
}

#[tokio::test]
async fn a_dump_that_could_not_be_made_is_not_taken_for_whole() {
    let sides = Sides::new();
    fs::remove_file(sides.path("from")).unwrap();
    let (sent, received) = sides.run(None, |_, _| {}).await;
    assert!(text(&sent).starts_with("Dumping the disk failed"), "{sent:?}");
    let received = text(&received);
    assert!(
        received.starts_with("the dump b") || received.starts_with("the dump did"),
        "{received}"
    );
}

#[tokio::test]
async fn only_the_one_sender_gets_in() {
    let sides = Sides::new();
    let (sent, received) = sides.run(None, |sending, _| sending.magic = "x".repeat(16)).await;
    assert_ne!(text(&sent), "fine");
    assert_eq!(text(&received), "Magic value mismatch");

    let stranger = sides.crypto.create(DAY).unwrap();
    let (_, received) =
        sides.run(None, |sending, _| sending.key_name.clone_from(&stranger.0)).await;
    assert_eq!(text(&received), "Not connected after 2 seconds");
    assert!(!sides.arrived());
}

#[tokio::test]
async fn senders_know_the_receiver() {
    let sides = Sides::new();
    let stranger = sides.crypto.create(DAY).unwrap();
    let (listener, port) = listen(HERE).await.unwrap();
    let acceptor = acceptor(sides.crypto.load(&stranger.0).unwrap(), &sides.source.1).unwrap();
    let waiting = tokio::spawn(async move { accept(&listener, &acceptor).await.map(drop) });
    let identity = sides.crypto.load(&sides.source.0).unwrap();
    let connector = connector(identity, &sides.target.1).unwrap();
    let stream = TcpStream::connect((HERE, port)).await.unwrap();
    let name = ServerName::try_from(COMMON_NAME).unwrap();
    let refused = timeout(LIMIT, connector.connect(name, stream)).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    waiting.abort();
}

#[test]
fn compressors_are_named_by_ganeti() {
    for (name, known) in
        [("none", false), ("", false), ("gzip", true), ("lzop", true), ("xz", true)]
    {
        assert_eq!(compressor(name, false).unwrap().is_some(), known, "{name}");
    }
    let error = compressor("/bin/sh", true).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "'/bin/sh' is no name of a compression tool");
}
