//! Our program in the place of ganeti-rapi, on a real Ganeti cluster: it is asked the same as the real daemon, looks the same to
//! the system, and satisfies what starts, watches and stops it.

#![expect(clippy::print_stdout, reason = "a test says what it found")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::ganeti::Ganeti;
use crate::machine;

/// How long a command may take, in seconds; the longest stops and starts all daemons of four nodes.
const LIMIT: &str = "300";
/// How long something that was told may take to happen.
const PATIENCE: Duration = Duration::from_secs(20);
const DAEMON: &str = "/usr/sbin/ganeti-rapi";
const UTIL: &str = "/usr/lib/ganeti/daemon-util";
const PLACE: &str = "https://127.0.0.1:5080";

/// Starts that are refused: the node, the user, the arguments, separated by blanks. Ours must end as the real daemon, with the
/// same words on standard output and error.
const REFUSED: &[(u8, &str, &str)] = &[
    (1, "gnt-rapi", "foo"),
    (1, "gnt-rapi", "--max-clients 0"),
    (1, "gnt-rapi", "--max-clients=-5 -f -d"),
    (1, "gnt-rapi", "--max=3 foo"),
    (1, "gnt-rapi", "-b 127.0.0.1 -i lo"),
    (1, "gnt-rapi", "-C /nope"),
    (1, "gnt-rapi", "-K /"),
    (1, "gnt-confd", "-f"),
    (2, "gnt-rapi", ""),
    (2, "gnt-rapi", "-d"),
    (2, "gnt-rapi", "-f -d -b ::1"),
    (2, "gnt-rapi", "--no-ssl -C /nope -d"),
    (2, "gnt-confd", ""),
];

/// Starts whose arguments cannot be read. The words are clap's.
const UNREADABLE: &[&str] =
    &["--nope", "--max-clients x", "--syslog maybe", "-p", "--port=x", "--ssl", "-b"];

/// Brings a cluster up and does everything in order.
pub(crate) fn run() -> Result<()> {
    let test = Test { cluster: Ganeti::up("daemon")?, program: machine::rapid("debug")? };
    test.refuses_as_the_real_one()?;
    let real = test.facts()?;
    test.util("stop", 0)?;
    test.util("check", 1)?;
    test.util("start", 0)?;
    test.util("check", 0)?;
    let ours = test.facts()?;
    ensure!(ours == real, "the daemon is not as the real one:\n{ours:#?}\nreal:\n{real:#?}");
    println!("daemon-util is satisfied; user, groups, files as the real daemon's");
    test.serves()?;
    test.begins_new_logs()?;
    test.follows_the_certificate()?;
    test.satisfies_the_watcher()?;
    test.outlives_the_master_daemon()?;
    test.util("stop", 0)?;
    ensure!(!test.pid_file().exists(), "the pid file is still there");
    test.says_why_it_does_not_start()?;
    test.changes_from_root(&real)?;
    test.moves_with_the_master()
}

/// The cluster, and what is put into the place of its daemon.
struct Test {
    cluster: Ganeti,
    program: PathBuf,
}

/// What the system says about a daemon.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    /// Name, umask, user and groups.
    status: Vec<String>,
    cwd: PathBuf,
    standard: Vec<PathBuf>,
    /// Whether it leads its session, and whether init has adopted it.
    leads: bool,
    adopted: bool,
    /// Owner, group and mode of the pid file and the log.
    files: Vec<(u32, u32, u32)>,
}

impl Test {
    fn node(&self, number: u8) -> PathBuf {
        self.cluster.node(number)
    }

    fn pid_file(&self) -> PathBuf {
        self.pid_file_of(1)
    }

    fn pid_file_of(&self, node: u8) -> PathBuf {
        self.node(node).join("var/run/ganeti/ganeti-rapi.pid")
    }

    fn log(&self) -> PathBuf {
        self.node(1).join("var/log/ganeti/rapi-daemon.log")
    }

    fn pid(&self) -> Result<String> {
        let text = fs::read_to_string(self.pid_file()).context("no pid file")?;
        Ok(text.trim().to_owned())
    }

    /// Runs a command as a node of the cluster. With `ours` it finds our program where the daemon lies.
    fn run(&self, node: u8, ours: bool, words: &[&str]) -> Result<Output> {
        let mut command = self.cluster.inside("bash");
        let text = r#"[ -z "$OURS" ] || mount --bind "$OURS" /usr/sbin/ganeti-rapi || exit 99
                      exec timeout "$@""#;
        command.args(["-c", text, "bash", LIMIT]).args(words);
        command.env("OURS", if ours { self.program.as_os_str() } else { "".as_ref() });
        command.env("GANETI_ROOTDIR", self.node(node));
        command.env("GANETI_HOSTNAME", format!("node{node}.gnt.example"));
        command.output().context("cannot run bash")
    }

    /// Runs a command beside our daemon on the master; it must succeed. Returns what it said.
    fn ok(&self, words: &[&str]) -> Result<String> {
        let said = self.run(1, true, words)?;
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.success(), "{}: {}: {error}", words.join(" "), said.status);
        Ok(String::from_utf8_lossy(&said.stdout).into_owned() + &error)
    }

    fn util(&self, verb: &str, code: i32) -> Result<()> {
        let said = self.run(1, true, &[UTIL, verb, "ganeti-rapi"])?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.code() == Some(code), "daemon-util {verb}: {}: {error}", said.status);
        Ok(())
    }

    /// Starts the daemon as a user: its exit code and what it said.
    fn start(&self, node: u8, ours: bool, user: &str, line: &str) -> Result<(Option<i32>, String)> {
        let (reuid, regid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let mut words = vec!["setpriv", &reuid, &regid, "--init-groups", DAEMON];
        words.extend(line.split_whitespace());
        let said = self.run(node, ours, &words)?;
        let text =
            [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok((said.status.code(), text.join("---\n")))
    }

    fn refuses_as_the_real_one(&self) -> Result<()> {
        for (node, user, line) in REFUSED {
            let real = self.start(*node, false, user, line)?;
            let ours = self.start(*node, true, user, line)?;
            ensure!(ours == real, "`{line}` as {user}: {ours:?}, and the real daemon {real:?}");
            ensure!(real.0 != Some(0), "`{line}` is not refused");
        }
        for line in UNREADABLE {
            for ours in [false, true] {
                let (code, _) = self.start(1, ours, "gnt-rapi", line)?;
                ensure!(code == Some(2), "`{line}`: {code:?}, ours: {ours}");
            }
        }
        println!("{} starts are refused as by the real daemon", REFUSED.len() + UNREADABLE.len());
        Ok(())
    }

    fn facts(&self) -> Result<Facts> {
        let pid = self.pid()?;
        let proc = Path::new("/proc").join(&pid);
        let status = fs::read_to_string(proc.join("status"))?;
        let wanted = ["Name:", "Umask:", "Uid:", "Gid:", "Groups:"];
        let wanted = |line: &&str| wanted.iter().any(|name| line.starts_with(name));
        let stat = fs::read_to_string(proc.join("stat"))?;
        // Behind the name: state, parent, group, session.
        let (_, numbers) = stat.rsplit_once(") ").context("stat has no name")?;
        let numbers: Vec<&str> = numbers.split(' ').collect();
        let standard = (0..3).map(|number| fs::read_link(proc.join(format!("fd/{number}"))));
        let owner = |path: PathBuf| fs::metadata(path).map(|m| (m.uid(), m.gid(), m.mode()));
        Ok(Facts {
            status: status.lines().filter(wanted).map(str::to_owned).collect(),
            cwd: fs::read_link(proc.join("cwd"))?,
            standard: standard.collect::<Result<_, _>>()?,
            leads: numbers[3] == pid,
            adopted: numbers[1] == "1",
            files: vec![owner(self.pid_file())?, owner(self.log())?],
        })
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.ok(&[&["curl", "-sSk", "--max-time", "20"], arguments].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{}: {said}", arguments.join(" ")))
    }

    fn has_logged(&self, text: &str) -> Result<()> {
        let log = fs::read_to_string(self.log())?;
        ensure!(log.contains(text), "the log has no '{text}':\n{log}");
        Ok(())
    }

    /// Requests, a job that changes the cluster, and what the log says of them.
    fn serves(&self) -> Result<()> {
        let url = |path: &str| format!("{PLACE}{path}");
        ensure!(self.ask(&[&url("/version")])? == 2, "it speaks another version");
        let said = self.ok(&[DAEMON, "--version"])?;
        ensure!(said.starts_with("ganeti-rapi (rapid) "), "this is another daemon: {said}");
        let change = ["-u", "writer:writepw", "-X", "PUT", &url("/2/tags?tag=ours")];
        let job = self.ask(&change)?;
        let job = url(&format!("/2/jobs/{job}"));
        self.soon("the job ends", || Ok(self.ask(&[&job])?["status"] == "success"))?;
        let tags = self.ok(&["gnt-cluster", "list-tags"])?;
        ensure!(tags.contains("ours"), "the cluster's tags are {tags}");
        let pid = self.pid()?;
        self.has_logged(&format!("ganeti-rapi pid={pid} INFO ganeti-rapi daemon startup\n"))?;
        self.has_logged(" PUT /2/tags?tag=ours HTTP/2.0 200\n")?;
        println!("a job was submitted and ended well");
        Ok(())
    }

    /// As logrotate does it.
    fn begins_new_logs(&self) -> Result<()> {
        fs::rename(self.log(), self.log().with_extension("log.1"))?;
        self.util("rotate-logs", 0)?;
        self.soon("a new log", || Ok(self.log().exists()))?;
        self.ask(&[&format!("{PLACE}/2/features")])?;
        self.soon("lines in the new log", || Ok(self.has_logged(" GET /2/features ").is_ok()))?;
        let output = fs::read_link(format!("/proc/{}/fd/2", self.pid()?))?;
        ensure!(output == self.log(), "standard error still goes to {}", output.display());
        println!("logs are rotated");
        Ok(())
    }

    /// The certificate is replaced as Ganeti replaces it.
    fn follows_the_certificate(&self) -> Result<()> {
        let before = self.certificate()?;
        self.ok(&["gnt-cluster", "renew-crypto", "--new-rapi-certificate", "--force"])?;
        self.soon("the new certificate", || Ok(self.certificate().is_ok_and(|now| now != before)))?;
        self.util("check", 0)?;
        println!("a new certificate is served");
        Ok(())
    }

    /// The certificate that is served, if it is the one in the cluster's file.
    fn certificate(&self) -> Result<String> {
        let file = self.node(1).join("var/lib/ganeti/rapi.pem");
        let trusted = file.to_str().context("no UTF-8")?;
        let name = "ganeti.example.com:5080";
        let (resolve, url) = (format!("{name}:127.0.0.1"), format!("https://{name}/version"));
        let trust = ["curl", "-sS", "--max-time", "20", "--cacert", trusted];
        self.ok(&[&trust[..], &["--resolve", &resolve, &url]].concat())?;
        Ok(fs::read_to_string(file)?)
    }

    /// It leaves a daemon alone that answers, and starts one that has ended. (One that was killed leaves its pid file, which is
    /// not root's: start-stop-daemon then refuses to start any, the real one neither.)
    fn satisfies_the_watcher(&self) -> Result<()> {
        let watch = || -> Result<()> {
            let said =
                self.ok(&["ganeti-watcher", "--debug", "--ignore-pause", "--rapi-ip=127.0.0.1"])?;
            let is_content =
                said.contains("Reported RAPI version 2") && !said.contains("WARNING RAPI");
            ensure!(is_content, "the watcher says: {said}");
            Ok(())
        };
        let before = self.pid()?;
        watch()?;
        ensure!(self.pid()? == before, "the watcher started another daemon");
        self.ok(&["kill", "-TERM", &before])?;
        self.soon("the daemon ends", || Ok(!self.pid_file().exists()))?;
        watch()?;
        ensure!(self.pid()? != before, "the watcher started nothing");
        println!("the watcher is satisfied, and starts a daemon that has ended");
        Ok(())
    }

    /// A master daemon that hangs, is stopped or killed: requests end in time as documented, nothing is done twice, and all is well
    /// as soon as it is.
    fn outlives_the_master_daemon(&self) -> Result<()> {
        let info = format!("{PLACE}/2/info");
        let tag = format!("{PLACE}/2/tags?tag=once");
        let change = ["-u", "writer:writepw", "-X", "PUT", &tag];
        let luxid = |verb: &str| self.ok(&[UTIL, verb, "ganeti-luxid"]).map(drop);
        let signal = |signal: &str| -> Result<()> {
            let pid = fs::read_to_string(self.node(1).join("var/run/ganeti/ganeti-luxid.pid"))?;
            self.ok(&["kill", signal, pid.trim()]).map(drop)
        };
        let jobs = || -> Result<usize> {
            Ok(self.ok(&["gnt-job", "list", "--no-headers"])?.lines().count())
        };
        let before = jobs()?;

        signal("-STOP")?;
        let silent = self.run(1, true, &["curl", "-sk", "--max-time", "3", &info])?;
        signal("-CONT")?;
        ensure!(silent.status.code() == Some(28), "a luxid that hangs: {}", silent.status);
        ensure!(self.status(&[&info])? == "200", "luxid goes on, and we do not");

        luxid("stop")?;
        // Both at the same time: each is waited for as long as Ganeti waits for a master daemon that may come.
        let (asked, changed) = std::thread::scope(|scope| {
            let changed = scope.spawn(|| self.status(&change));
            (self.status(&[&info]), changed.join())
        });
        let changed = changed.map_err(|_| anyhow!("a thread panicked"))??;
        ensure!((asked?, &*changed) == ("504".into(), "504"), "luxid is stopped: {changed}");
        luxid("start")?;
        ensure!(self.status(&[&info])? == "200", "luxid is there again, and we are not");

        signal("-KILL")?;
        fs::remove_file(self.node(1).join("var/run/ganeti/ganeti-luxid.pid"))?;
        luxid("start")?;
        ensure!(self.status(&[&info])? == "200", "luxid was killed, and we are lost");
        ensure!(jobs()? == before, "a job that was answered 504 is there");
        ensure!(self.status(&change)? == "200", "a job after all");
        ensure!(jobs()? == before + 1, "it is not there once");
        println!("a master daemon that hangs, stops or dies is outlived");
        Ok(())
    }

    /// The status of an answer.
    fn status(&self, arguments: &[&str]) -> Result<String> {
        let quiet = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60"];
        self.ok(&[&quiet, arguments].concat())
    }

    /// A starter ends well only when requests are answered.
    fn says_why_it_does_not_start(&self) -> Result<()> {
        for (line, why) in [
            ("-b 192.0.2.1", "cannot listen on 192.0.2.1:5080: Cannot assign requested address"),
            ("-C /etc/hostname", "/etc/hostname holds no certificate as PEM"),
        ] {
            let (code, said) = self.start(1, true, "gnt-rapi", line)?;
            let expected = "Error when starting daemon process: b";
            ensure!(code == Some(1), "`{line}`: {code:?}: {said}");
            ensure!(said.contains(expected) && said.contains(why), "`{line}`: {said}");
            ensure!(!self.pid_file().exists(), "`{line}` left a pid file");
            self.has_logged(why)?;
        }
        Ok(())
    }

    /// Ganeti refuses root; we become the right user.
    fn changes_from_root(&self, real: &Facts) -> Result<()> {
        let (code, said) = self.start(1, true, "root", "-b 127.0.0.1")?;
        ensure!(code == Some(0), "as root: {code:?}: {said}");
        ensure!(self.facts()?.status == real.status, "root became another: {:?}", self.facts()?);
        let (code, said) = self.start(1, true, "root", "-b 127.0.0.1")?;
        let second = "is already locked by another process, PID read from file is";
        ensure!(code == Some(1) && said.contains(second), "a second one: {code:?}: {said}");
        self.util("stop", 0)
    }

    /// Ganeti stops ours on the old master and starts it on the new one.
    fn moves_with_the_master(&self) -> Result<()> {
        // What the node daemons start finds our program, too.
        for (node, verb) in [(1, "stop"), (1, "start"), (2, "stop"), (2, "start")] {
            let said = self.run(node, true, &[UTIL, verb, "ganeti-noded"])?;
            ensure!(said.status.success(), "{verb} ganeti-noded of node {node}: {}", said.status);
        }
        self.util("start", 0)?;
        let said = self.run(2, true, &["gnt-cluster", "master-failover"])?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "gnt-cluster master-failover: {}: {error}", said.status);
        ensure!(!self.pid_file().exists(), "the daemon of the old master is still there");
        let pid = fs::read_to_string(self.pid_file_of(2)).context("none on the new master")?;
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()))?;
        ensure!(line.starts_with(DAEMON), "the new master's daemon is not ours: {line}");
        let info = self.ask(&[&format!("{PLACE}/2/info")])?;
        ensure!(info["master"] == "node2.gnt.example", "the master is {}", info["master"]);
        let (code, _) = self.start(1, true, "gnt-rapi", "")?;
        ensure!(code == Some(11), "on the old master: {code:?}");
        println!("a failover of the master takes it along");
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "there is no executor here")]
    fn soon(&self, what: &str, is: impl Fn() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !is()? {
            if begun.elapsed() > PATIENCE {
                bail!("{what}: not within {PATIENCE:?}");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
