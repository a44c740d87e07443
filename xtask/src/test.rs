//! `cargo xtask test`: what CI runs. First the checks, then the system tests, two at a time; each can be run alone by its name.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::machine::{cargo, root, run};
use crate::{check, ganeti, machine, system};

/// How many parts run at the same time.
const SIDE_BY_SIDE: usize = 2;
/// How long each target of the tests with bad input is tried.
const MUTATE_SECONDS: &str = "60";

/// Run everything, or the named parts alone.
#[derive(Args)]
pub(crate) struct Test {
    /// `check` and parts by their names; all of them by default, but those that take long. A name that is none lists them.
    names: Vec<String>,
    /// Run the parts that take long, too.
    #[arg(long)]
    long: bool,
    /// What the parts need is built and installed already.
    #[arg(long, hide = true)]
    prepared: bool,
}

/// A part of the tests.
struct Part {
    name: &'static str,
    /// The Debian packages that it needs.
    packages: &'static [&'static str],
    run: fn() -> Result<()>,
}

/// Parts that are run by their names or with `--long` only.
const LONG: &[Part] = &[
    // A Debian that is installed by debootstrap and boots.
    Part { name: "debian", packages: DEBIAN, run: system::debian::run },
];

/// In the order in which they are begun: long ones first.
const PARTS: &[Part] = &[
    // The scenarios on a real cluster, through its own daemon and through ours, and on ours.
    Part { name: "differential", packages: ganeti::PACKAGES, run: system::differential::run },
    // A real guest, through the API.
    Part { name: "guest", packages: QEMU, run: system::guest::run },
    // Networks of a real guest, through the API.
    Part { name: "network", packages: NODE, run: system::network::run },
    // What becomes of a real guest that nobody stopped; its screen, memory and limits.
    Part { name: "life", packages: QEMU, run: system::life::run },
    // Disks of real instances, through the API.
    Part { name: "disks", packages: DISKS, run: system::disks::run },
    // Operating systems, exports and moves, with Ganeti's tool for moving.
    Part { name: "backup", packages: BACKUP, run: system::backup::run },
    // At least 200 seeded kills under load.
    Part { name: "crash", packages: &[], run: system::crash::run },
    // Our program in the place of ganeti-rapi.
    Part { name: "daemon", packages: ganeti::PACKAGES, run: system::daemon::run },
    // Bad input: requests, the users file, filters, opcodes.
    Part { name: "input", packages: &[], run: input },
    // Every operation on an instance of this machine, killed wherever it touches the world.
    Part { name: "killed", packages: QEMU, run: system::killed::run },
    // The node alone with a real guest.
    Part { name: "node", packages: NODE, run: node },
    // The Debian packages.
    Part { name: "deb", packages: &["systemd", "binutils"], run: system::deb::run },
    // Ganeti's own command line tools and its daemon.
    Part { name: "tools", packages: &["ganeti", "util-linux"], run: system::tools::run },
    // Ganeti's own Python client.
    Part {
        name: "client",
        packages: &["python3", "python3-ganeti-rapi"],
        run: system::client::run,
    },
];

/// What a real guest needs.
pub(crate) const QEMU: &[&str] = &["qemu-system-x86", "e2fsprogs", "zstd", "xz-utils"];

/// What its disks and NICs need beside.
const NODE: &[&str] = &[
    "qemu-system-x86",
    "e2fsprogs",
    "zstd",
    "xz-utils",
    "iproute2",
    "nftables",
    "lvm2",
    "openvswitch-switch",
];

/// And a tool of Ganeti's that moves instances between clusters.
const DISKS: &[&str] = &["qemu-system-x86", "e2fsprogs", "zstd", "xz-utils", "ganeti-os-noop"];

const BACKUP: &[&str] = &["qemu-system-x86", "e2fsprogs", "zstd", "xz-utils", "ganeti"];

const DEBIAN: &[&str] = &["qemu-system-x86", "e2fsprogs", "zstd", "xz-utils", "debootstrap"];

fn input() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "changed_"]);
    // All targets at once.
    run(test.env("RAPID_MUTATE_SECONDS", MUTATE_SECONDS).env("RUST_TEST_THREADS", "4"))
}

fn node() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "--test", "real_guest"]);
    run(test.args(["--test", "real_life"]))
}

fn build() -> Result<()> {
    run(cargo().args(["build", "--quiet", "--workspace", "--all-targets"]))
}

/// What came of a part.
struct Outcome {
    name: &'static str,
    seconds: f64,
    failed: bool,
}

impl Test {
    /// Runs the parts, prints a line for each, and fails when one failed.
    pub(crate) fn run(&self) -> Result<()> {
        // Asked for before anything is built: building may put another file in the place of this program.
        let program = std::env::current_exe().context("this program is nowhere")?;
        let all = || PARTS.iter().chain(LONG);
        let known = |name: &str| name == "check" || all().any(|part| part.name == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            let names: Vec<&str> = all().map(|part| part.name).collect();
            bail!("there is no part '{name}', but check, {}", names.join(", "));
        }
        let wanted = |name: &str| self.names.is_empty() || self.names.iter().any(|n| n == name);
        let is_long = |part: &Part| LONG.iter().any(|long| long.name == part.name);
        let unasked = |part: &Part| self.names.is_empty() && !self.long && is_long(part);
        let parts: Vec<&Part> = all().filter(|part| wanted(part.name) && !unasked(part)).collect();
        if let (true, [part]) = (self.prepared, parts.as_slice()) {
            return (part.run)();
        }
        let packages: Vec<&str> = parts.iter().flat_map(|part| part.packages).copied().collect();
        machine::packages(&packages)?;
        let mut outcomes = Vec::new();
        let begun = Instant::now();
        if wanted("check") {
            let failed = check::all().inspect_err(|error| println!("{error:#}")).is_err();
            outcomes.push(Outcome {
                name: "check",
                seconds: begun.elapsed().as_secs_f64(),
                failed,
            });
        }
        if !parts.is_empty() {
            build()?;
            outcomes.extend(side_by_side(&program, &parts)?);
        }
        summary(&outcomes, begun.elapsed().as_secs_f64())
    }
}

/// Runs parts, each in a process of its own with its output in a file, which is shown when the part failed.
fn side_by_side(program: &Path, parts: &[&Part]) -> Result<Vec<Outcome>> {
    let logs = root().join("target/system");
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let left = Mutex::new(parts.iter());
    let done = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(part) = next else { return Ok(()) };
            let log = logs.join(format!("{}.log", part.name));
            // A part that is run alone is watched by somebody.
            let outcome = one(program, part, (parts.len() > 1).then_some(log.as_path()))?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a part's watcher panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn one(program: &Path, part: &Part, log: Option<&Path>) -> Result<Outcome> {
    let begun = Instant::now();
    let mut command = Command::new(program);
    command.args(["test", "--prepared", part.name]).stdin(Stdio::null());
    if let Some(log) = log {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file);
    }
    let status = command.status().context("cannot start this program again")?;
    let outcome = Outcome {
        name: part.name,
        seconds: begun.elapsed().as_secs_f64(),
        failed: !status.success(),
    };
    if let (true, Some(log)) = (outcome.failed, log) {
        let said = std::fs::read(log)?;
        println!("--- {} failed:\n{}\n---", part.name, String::from_utf8_lossy(&said).trim_end());
    }
    println!("{}", outcome.line());
    Ok(outcome)
}

impl Outcome {
    fn line(&self) -> String {
        let word = if self.failed { "FAILED" } else { "ok" };
        format!("{:<12} {word:<6} {:>6.0} s", self.name, self.seconds)
    }
}

fn summary(outcomes: &[Outcome], seconds: f64) -> Result<()> {
    println!();
    for outcome in outcomes {
        println!("{}", outcome.line());
    }
    println!("{:<12} {:>13.0} s", "all", seconds);
    let failed = outcomes.iter().filter(|outcome| outcome.failed).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    ensure!(failed == 0, "{failed} parts failed");
    Ok(())
}
