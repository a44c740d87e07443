//! What looks like this server's and belongs to no instance that runs here: processes, runtime directories, notes, control groups,
//! tap devices. It is found and told, once a minute; nothing is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host;
use crate::stray::{Stray, StrayKind};

/// What was found on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Process ids with command lines.
    pub(crate) processes: Vec<(u32, Vec<String>)>,
    /// UUIDs of instances that have a directory of sockets.
    pub(crate) run_dirs: Vec<String>,
    /// UUIDs of instances that are noted to run.
    pub(crate) notes: Vec<String>,
    /// Control groups: their directories, and the UUIDs of their instances.
    pub(crate) groups: Vec<(PathBuf, String)>,
    /// Tap devices, and what each was made for.
    pub(crate) taps: Vec<(String, String)>,
}

/// What this server knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// UUIDs of instances that run, and of those that ended by themselves and are still told of.
    pub(crate) uuids: BTreeSet<String>,
    pub(crate) pids: BTreeSet<u32>,
    pub(crate) taps: BTreeSet<String>,
}

/// The value behind an option of a command line.
fn option<'a>(argv: &'a [String], name: &str) -> Option<&'a str> {
    let at = argv.iter().position(|arg| arg == name)?;
    argv.get(at + 1).map(String::as_str)
}

/// What belongs to nothing. `sockets` is where this server's instances have their sockets.
pub(crate) fn judge(picture: &Picture, known: &Known, sockets: &Path) -> Vec<Stray> {
    let mut found = Vec::new();
    for (pid, argv) in &picture.processes {
        let ours =
            option(argv, "-pidfile").is_some_and(|path| Path::new(path).starts_with(sockets));
        if !ours || known.pids.contains(pid) {
            continue;
        }
        let name = option(argv, "-name").unwrap_or_default();
        let name = name.split(',').find_map(|part| part.strip_prefix("guest=")).unwrap_or(name);
        let text = format!("process {pid} runs instance {name}, and is not known here");
        found.push(Stray { kind: StrayKind::Process, name: name.to_owned(), text });
    }
    for (tap, said) in picture.taps.iter().filter(|(tap, _)| !known.taps.contains(tap)) {
        let text = format!("network device {tap}, made for {said}, belongs to no running instance");
        found.push(Stray { kind: StrayKind::Device, name: tap.clone(), text });
    }
    let mut add = |kind, uuid: &String, text: String| {
        if !known.uuids.contains(uuid) {
            found.push(Stray { kind, name: uuid.clone(), text });
        }
    };
    for uuid in &picture.run_dirs {
        let path = sockets.join(uuid);
        add(StrayKind::File, uuid, format!("{} belongs to no running instance", path.display()));
    }
    for uuid in &picture.notes {
        add(StrayKind::File, uuid, format!("the note on instance {uuid} is of none that runs"));
    }
    for (path, uuid) in &picture.groups {
        let text = format!("control group {} belongs to no running instance", path.display());
        add(StrayKind::Cgroup, uuid, text);
    }
    found.sort();
    found
}

/// Looks.
pub(crate) fn look(
    sockets: &Path,
    runtime_dir: &Path,
    groups: Vec<(PathBuf, String)>,
    taps: Vec<(String, String)>,
) -> Picture {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let notes = names(runtime_dir);
    Picture {
        processes: pids.map(|pid| (pid, host::command_line(pid))).collect(),
        run_dirs: names(sockets),
        notes: notes
            .iter()
            .filter_map(|name| name.strip_suffix(".json"))
            .map(str::to_owned)
            .collect(),
        groups,
        taps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu(pid: u32, dir: &str) -> (u32, Vec<String>) {
        let line = format!("/usr/bin/kvm -name guest=web,debug-threads=on -pidfile {dir}/pid -S");
        (pid, line.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn only_what_is_ours_and_unknown_is_a_stray() {
        let sockets = Path::new("/run/r");
        let picture = Picture {
            processes: vec![
                qemu(1, "/run/r/a"),
                qemu(2, "/run/r/b"),
                qemu(3, "/elsewhere/c"),
                (4, vec!["sh".into(), "-pidfile".into()]),
            ],
            run_dirs: vec!["a".into(), "b".into()],
            notes: vec!["a".into(), "c".into()],
            groups: vec![("/sys/g/a".into(), "a".into()), ("/sys/g/d".into(), "d".into())],
            taps: [("tapa", "nic 0 of instance a"), ("tapd", "nic 1 of instance d")]
                .map(|(tap, said)| (tap.to_owned(), said.to_owned()))
                .into(),
        };
        let known = Known {
            uuids: ["a".to_owned()].into(),
            pids: [1].into(),
            taps: ["tapa".to_owned()].into(),
        };
        let texts: Vec<String> =
            judge(&picture, &known, sockets).into_iter().map(|stray| stray.text).collect();
        assert_eq!(
            texts,
            [
                "process 2 runs instance web, and is not known here",
                "/run/r/b belongs to no running instance",
                "the note on instance c is of none that runs",
                "control group /sys/g/d belongs to no running instance",
                "network device tapd, made for nic 1 of instance d, belongs to no running instance",
            ]
        );
        assert_eq!(judge(&Picture::default(), &known, sockets), []);
    }
}
