//! Control groups: an instance is held within its memory and its virtual processors, where that is asked for. Version 2, version 1 or
//! none: what there is follows from the kernel's tables; what is to be written is a plan, pure; a few lines carry it out.
//!
//! Version 1 groups are made below the server's own. In version 2 a group with processes can have no limited children, hence
//! they are made beside the server's own, where a restarted server does not stand in their way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What QEMU needs beside the guest's memory, in MiB: its own, and translated code.
const OVERHEAD_MIB: u64 = 256;
/// The share of the guest's memory that its page tables and the like take, in percent.
const OVERHEAD_PERCENT: u64 = 2;
/// The period in which processor time is counted, in microseconds: the kernel's usual one.
const PERIOD_US: u64 = 100_000;
/// How often and with which pauses a group is removed: its processes take a moment to be gone.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(25);

/// Where groups are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One tree.
    V2(PathBuf),
    /// A tree for each controller that there is.
    V1 { cpu: Option<PathBuf>, memory: Option<PathBuf> },
    #[default]
    None,
}

/// What an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u64,
}

impl Limits {
    /// Of QEMU as a whole, in bytes.
    fn memory_bytes(self) -> u64 {
        (self.memory_mib + OVERHEAD_MIB + self.memory_mib * OVERHEAD_PERCENT / 100) << 20
    }

    fn quota_us(self) -> u64 {
        self.vcpus.max(1) * PERIOD_US
    }
}

/// One step of setting a group up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Make(PathBuf),
    Write(PathBuf, String),
}

/// Reads where groups can be made, from `/proc/self/mountinfo` and `/proc/self/cgroup`. A version 2 tree without the
/// controllers is as good as none; `controllers` tells what a tree's root has.
pub(crate) fn find(mountinfo: &str, own: &str, controllers: impl Fn(&Path) -> String) -> Hierarchy {
    let mounts: Vec<(&str, &str, &str)> = mountinfo.lines().filter_map(mount).collect();
    let v1 = |controller: &str| {
        let holds = |options: &str| options.split(',').any(|word| word == controller);
        let (_, point, _) =
            mounts.iter().find(|(kind, _, options)| *kind == "cgroup" && holds(options))?;
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            holds(names).then_some(path)
        })?;
        Some(below(Path::new(point), path))
    };
    let (cpu, memory) = (v1("cpu"), v1("memory"));
    if cpu.is_some() || memory.is_some() {
        return Hierarchy::V1 { cpu, memory };
    }
    let Some((_, point, _)) = mounts.iter().find(|(kind, ..)| *kind == "cgroup2") else {
        return Hierarchy::None;
    };
    let has = controllers(Path::new(point));
    if !["cpu", "memory"].iter().all(|wanted| has.split_whitespace().any(|word| word == *wanted)) {
        return Hierarchy::None;
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    Hierarchy::V2(below(Path::new(point), &parent.to_string_lossy()))
}

/// A line's file system type, mount point and options.
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
    Some((kind, left.split(' ').nth(4)?, options))
}

fn below(point: &Path, path: &str) -> PathBuf {
    match path.trim_start_matches('/') {
        "" => point.to_owned(),
        path => point.join(path),
    }
}

impl Hierarchy {
    /// This machine's.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let controllers =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        find(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), controllers)
    }

    fn bases(&self) -> Vec<&Path> {
        match self {
            Self::V2(base) => vec![base],
            Self::V1 { cpu, memory } => cpu.iter().chain(memory).map(PathBuf::as_path).collect(),
            Self::None => vec![],
        }
    }
}

/// What is to be done so that a process is held within limits. `family` is the group of all instances of this server.
pub(crate) fn plan(
    hierarchy: &Hierarchy,
    family: &str,
    group: &str,
    limits: Limits,
    pid: u32,
) -> Vec<Step> {
    let write = |dir: &Path, name: &str, value: String| Step::Write(dir.join(name), value);
    let make = |base: &Path| {
        let dir = base.join(family).join(group);
        (Step::Make(base.join(family)), Step::Make(dir.clone()), dir)
    };
    let (quota, period) = (limits.quota_us(), PERIOD_US);
    let mut steps = Vec::new();
    match hierarchy {
        Hierarchy::V2(base) => {
            let (family_dir, own, dir) = make(base);
            let parent = base.join(family);
            steps.push(write(base, "cgroup.subtree_control", "+cpu +memory".into()));
            steps.push(family_dir);
            steps.push(write(&parent, "cgroup.subtree_control", "+cpu +memory".into()));
            steps.push(own);
            steps.push(write(&dir, "cpu.max", format!("{quota} {period}")));
            steps.push(write(&dir, "memory.max", limits.memory_bytes().to_string()));
            steps.push(write(&dir, "cgroup.procs", pid.to_string()));
        }
        Hierarchy::V1 { cpu, memory } => {
            if let Some(base) = cpu {
                let (family_dir, own, dir) = make(base);
                steps.extend([family_dir, own]);
                steps.push(write(&dir, "cpu.cfs_period_us", period.to_string()));
                steps.push(write(&dir, "cpu.cfs_quota_us", quota.to_string()));
                steps.push(write(&dir, "cgroup.procs", pid.to_string()));
            }
            if let Some(base) = memory {
                let (family_dir, own, dir) = make(base);
                steps.extend([family_dir, own]);
                let bytes = limits.memory_bytes().to_string();
                steps.push(write(&dir, "memory.limit_in_bytes", bytes));
                steps.push(write(&dir, "cgroup.procs", pid.to_string()));
            }
        }
        Hierarchy::None => {}
    }
    steps
}

/// Carries a plan out; what went wrong names the file.
pub(crate) fn carry_out(steps: &[Step]) -> Result<(), String> {
    for step in steps {
        let (path, done) = match step {
            Step::Make(path) => match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (path, Ok(())),
                done => (path, done),
            },
            Step::Write(path, value) => (path, fs::write(path, value)),
        };
        done.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Where the groups of this server's instances are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    hierarchy: Hierarchy,
    family: String,
    /// Whether new instances are put into groups.
    limit: bool,
}

impl Groups {
    /// `family` names this server's groups, always the same.
    pub(crate) fn new(hierarchy: Hierarchy, family: String, limit: bool) -> Self {
        if limit && hierarchy == Hierarchy::None {
            tracing::warn!(
                "there are no control groups for cpu and memory here: instances are not limited"
            );
        }
        Self { hierarchy, family, limit }
    }

    /// Holds a process within limits, where that is wanted.
    pub(crate) fn hold(&self, uuid: &str, limits: Limits, pid: u32) -> Result<(), String> {
        if !self.limit {
            return Ok(());
        }
        let steps = plan(&self.hierarchy, &self.family, uuid, limits, pid);
        // Another instance that just ended may have taken the common directory away.
        carry_out(&steps).or_else(|_| carry_out(&steps))
    }

    fn dirs(&self, uuid: &str) -> impl Iterator<Item = PathBuf> {
        let dirs: Vec<PathBuf> = self
            .hierarchy
            .bases()
            .iter()
            .map(|base| base.join(&self.family).join(uuid))
            .filter(|dir| dir.exists())
            .collect();
        dirs.into_iter()
    }

    /// Removes an instance's groups once its process is gone.
    pub(crate) async fn release(&self, uuid: &str) {
        for dir in self.dirs(uuid) {
            for _ in 0..REMOVE_TRIES {
                match fs::remove_dir(&dir) {
                    Err(error)
                        if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) =>
                    {
                        tokio::time::sleep(REMOVE_PAUSE).await;
                    }
                    // What else is wrong shows as a stray.
                    _ => break,
                }
            }
            // The last one takes the common directory with it.
            let _ = dir.parent().map(fs::remove_dir);
        }
    }

    /// All groups of instances that there are: their directories and the instances' UUIDs.
    pub(crate) fn all(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for base in self.hierarchy.bases() {
            let entries = fs::read_dir(base.join(&self.family)).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.path().is_dir()) {
                if let Ok(uuid) = entry.file_name().into_string() {
                    found.push((entry.path(), uuid));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const LIMITS: Limits = Limits { memory_mib: 1024, vcpus: 2 };

    fn all(_: &Path) -> String {
        "cpuset cpu io memory pids\n".into()
    }

    /// One step a line.
    fn told(hierarchy: &Hierarchy) -> String {
        let line = |step: Step| match step {
            Step::Make(path) => format!("make {}\n", path.display()),
            Step::Write(path, value) => format!("write {} {value}\n", path.display()),
        };
        plan(hierarchy, "rapid-1", "web", LIMITS, 42).into_iter().map(line).collect()
    }

    #[test]
    fn trees_are_found() {
        let own = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/";
        let cpu = Some("/sys/fs/cgroup/cpu,cpuacct".into());
        let memory = Some("/sys/fs/cgroup/memory/a/b".into());
        assert_eq!(find(V1, own, all), Hierarchy::V1 { cpu, memory });
        let own = "0::/system.slice/rapid.service";
        assert_eq!(find(V2, own, all), Hierarchy::V2("/sys/fs/cgroup/system.slice".into()));
        assert_eq!(find(V2, "0::/", all), Hierarchy::V2("/sys/fs/cgroup".into()));
        assert_eq!(find(V2, "0::/", |_| "hugetlb\n".into()), Hierarchy::None);
        assert_eq!(find("", "", all), Hierarchy::None);
    }

    #[test]
    fn version_1_has_a_group_for_each_controller() {
        let both = Hierarchy::V1 { cpu: Some("/c".into()), memory: Some("/m".into()) };
        insta::assert_snapshot!(told(&both), @r"
        make /c/rapid-1
        make /c/rapid-1/web
        write /c/rapid-1/web/cpu.cfs_period_us 100000
        write /c/rapid-1/web/cpu.cfs_quota_us 200000
        write /c/rapid-1/web/cgroup.procs 42
        make /m/rapid-1
        make /m/rapid-1/web
        write /m/rapid-1/web/memory.limit_in_bytes 1363148800
        write /m/rapid-1/web/cgroup.procs 42
        ");
    }

    #[test]
    fn version_2_has_one() {
        insta::assert_snapshot!(told(&Hierarchy::V2("/g".into())), @r"
        write /g/cgroup.subtree_control +cpu +memory
        make /g/rapid-1
        write /g/rapid-1/cgroup.subtree_control +cpu +memory
        make /g/rapid-1/web
        write /g/rapid-1/web/cpu.max 200000 100000
        write /g/rapid-1/web/memory.max 1363148800
        write /g/rapid-1/web/cgroup.procs 42
        ");
        assert_eq!(told(&Hierarchy::None), "");
    }
}
