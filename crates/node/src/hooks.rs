//! Hook scripts: the executables of `HPATH-PHASE.d`, run one after the other in the order of their names.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::process::{PATH, Process, is_executable};
use crate::{HookPhase, HookResult, HookStatus};

/// How long one hook script may take.
const HOOK_LIMIT: Duration = Duration::from_secs(300);

/// Runs all scripts. A directory that is not there holds none.
pub(crate) async fn run(
    hooks_dir: &Path,
    hpath: &str,
    phase: HookPhase,
    env: &BTreeMap<String, String>,
) -> Vec<HookResult> {
    let subdir = format!("{hpath}-{}.d", phase.as_str());
    let dir = hooks_dir.join(&subdir);
    let mut names: Vec<String> = match dir.read_dir() {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect(),
        Err(_) => return Vec::new(),
    };
    names.sort();
    let env: Vec<(String, String)> = environment(env);

    let mut results = Vec::new();
    for name in names {
        let path = dir.join(&name);
        let script = format!("{subdir}/{name}");
        let (status, output) = if !is_plugin_name(&name) || !is_executable(&path) {
            (HookStatus::Skipped, String::new())
        } else {
            match Process::new(&path, HOOK_LIMIT)
                .cwd(Path::new("/"))
                .env_only(env.clone())
                .run()
                .await
            {
                Ok(done) => {
                    let failed = done.failure().is_some();
                    let status = if failed { HookStatus::Failed } else { HookStatus::Success };
                    (status, done.output().trim().to_owned())
                }
                Err(error) => (HookStatus::Failed, error.to_string()),
            }
        };
        results.push(HookResult { script, status, output });
    }
    results
}

/// All variables of a hook begin with `GANETI_`, except the search path.
fn environment(env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut list = vec![("PATH".to_owned(), PATH.to_owned())];
    for (name, value) in env {
        if name.starts_with("GANETI_") || name == "PATH" {
            list.push((name.clone(), value.clone()));
        } else {
            list.push((format!("GANETI_{name}"), value.clone()));
        }
    }
    list
}

/// Ganeti: names of other forms, such as editors' backups, are skipped (3.0, `EXT_PLUGIN_MASK`).
pub(crate) fn is_plugin_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn scripts_run_in_order_and_others_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("instance-add-pre.d");
        std::fs::create_dir(&dir).unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        write("10-say", "#!/bin/sh\necho \"$GANETI_OP_CODE $GANETI_X\"\n", 0o755);
        write("20-fail", "#!/bin/sh\necho no >&2; exit 1\n", 0o755);
        write("30-plain", "text", 0o644);
        write("40-old~", "#!/bin/sh\n", 0o755);
        let env = [("GANETI_OP_CODE", "OP_X"), ("X", "y")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let results = super::run(root.path(), "instance-add", HookPhase::Pre, &env).await;
        let short: Vec<_> =
            results.iter().map(|r| (r.script.as_str(), r.status, r.output.as_str())).collect();
        assert_eq!(
            short,
            [
                ("instance-add-pre.d/10-say", HookStatus::Success, "OP_X y"),
                ("instance-add-pre.d/20-fail", HookStatus::Failed, "no"),
                ("instance-add-pre.d/30-plain", HookStatus::Skipped, ""),
                ("instance-add-pre.d/40-old~", HookStatus::Skipped, ""),
            ]
        );
        let none = super::run(root.path(), "instance-add", HookPhase::Post, &env).await;
        assert!(none.is_empty());
    }
}
