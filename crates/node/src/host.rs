//! Facts about this machine: memory, processors, free space. Read from /proc and the file systems, never from commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Memory of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_mib: u64,
    /// Free, or used for caches only.
    pub(crate) free_mib: u64,
}

/// Processors of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Processors {
    pub(crate) total: u64,
    pub(crate) sockets: u64,
    pub(crate) numa_nodes: u64,
}

/// Reads `/proc/meminfo`. Ganeti counts as free what is free, in buffers and in the page cache (3.0, `hv_base.py`).
pub(crate) fn memory() -> Memory {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse_meminfo(text: &str) -> Memory {
    let mut memory = Memory::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let kib = || value.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        match key {
            "MemTotal" => memory.total_mib = kib().unwrap_or(0) / 1024,
            "MemFree" | "Buffers" | "Cached" => memory.free_mib += kib().unwrap_or(0) / 1024,
            _ => {}
        }
    }
    memory
}

/// Reads `/proc/cpuinfo` and the NUMA nodes.
pub(crate) fn processors() -> Processors {
    let mut found = parse_cpuinfo(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let numa = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let is_node = |name: &str| {
        let digits = name.strip_prefix("node").unwrap_or("");
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let count = numa.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count();
    found.numa_nodes = u64::try_from(count).unwrap_or(1).max(1);
    found
}

fn parse_cpuinfo(text: &str) -> Processors {
    let mut found = Processors { total: 0, sockets: 0, numa_nodes: 1 };
    let mut packages = BTreeSet::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "processor" => found.total += 1,
            "physical id" => {
                packages.insert(value.trim());
            }
            _ => {}
        }
    }
    found.total = found.total.max(1);
    found.sockets = u64::try_from(packages.len()).unwrap_or(1).max(1);
    found
}

/// The kernel's identity of this boot.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Size and free space (for this user) of the file system that holds a path, or that will hold it, in MiB.
pub(crate) fn space(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(((stat.f_blocks * stat.f_frsize) >> 20, (stat.f_bavail * stat.f_frsize) >> 20))
}

/// What `/proc` tells about a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessFacts {
    /// In clock ticks since boot: with the process id it names one process for ever.
    pub(crate) start_time: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: u64,
}

/// Reads the facts of a process that lives; a zombie does not.
pub(crate) fn process_facts(pid: u32) -> Option<ProcessFacts> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<ProcessFacts> {
    // The name in parentheses may hold anything, so fields are counted from behind it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    #[expect(clippy::cast_precision_loss, reason = "clock ticks of a process fit 53 bits")]
    let cpu_seconds = (number(11)? + number(12)?) as f64 / ticks as f64;
    Some(ProcessFacts {
        start_time: number(19)?,
        cpu_seconds,
        resident_mib: (number(21)? * page) >> 20,
    })
}

/// The user of that name and the group it is in.
pub(crate) fn user(name: &str) -> Option<(u32, u32)> {
    parse_passwd(&fs::read_to_string("/etc/passwd").unwrap_or_default(), name)
}

fn parse_passwd(text: &str, name: &str) -> Option<(u32, u32)> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The command line of a process.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_caches_as_free() {
        let text =
            "MemTotal: 2097152 kB\nMemFree: 1024 kB\nBuffers: 2048 kB\nCached: 4096 kB\nX: 1\n";
        assert_eq!(parse_meminfo(text), Memory { total_mib: 2048, free_mib: 7 });
    }

    #[test]
    fn sockets_are_packages() {
        let text = "processor\t: 0\nphysical id\t: 0\nprocessor\t: 1\nphysical id\t: 1\n";
        let expected = Processors { total: 2, sockets: 2, numa_nodes: 1 };
        assert_eq!(parse_cpuinfo(text), expected);
        assert_eq!(parse_cpuinfo("").total, 1);
    }

    #[test]
    fn a_process_name_may_hold_parentheses() {
        let line = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 100 50 0 0 20 0 1 0 4242 9 256 0 0";
        let facts = parse_stat(line).unwrap();
        assert_eq!(facts.start_time, 4242);
        assert!(facts.cpu_seconds > 0.0);
        assert_eq!(parse_stat("7 (a) Z 1 7 7 0 -1 0 0 0 0 0 1 5 0 0 20 0 1 0 4 9 2"), None);
    }

    #[test]
    fn users_have_numbers() {
        let text = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        assert_eq!(parse_passwd(text, "nobody"), Some((65534, 65533)));
        assert_eq!(parse_passwd(text, "no"), None);
    }

    #[test]
    fn this_process_has_facts() {
        assert!(process_facts(std::process::id()).unwrap().start_time > 0);
        assert!(memory().total_mib > 0);
        assert!(space(Path::new("/")).unwrap().0 > 0);
    }
}
