//! External instance allocators: a script is given a request in a file and prints its answer.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::{NodeError, Result};

/// How long an allocator may think.
const ALLOCATOR_LIMIT: Duration = Duration::from_secs(300);

/// Finds and runs an allocator; the texts are Ganeti's (3.0, `IAllocatorRunner`).
pub(crate) async fn run(
    search_path: &[PathBuf],
    name: &str,
    options: &[String],
    request: &Value,
) -> Result<String> {
    let found = match crate::hooks::is_plugin_name(name) {
        true => search_path.iter().map(|dir| dir.join(name)).find(|path| path.is_file()),
        false => None,
    };
    let Some(script) = found else {
        let text = format!("iallocator module '{name}' not found in the search path");
        return Err(NodeError::Failed(text));
    };
    let failed = |reason: String, output: &str| {
        let text = format!("iallocator module '{name}' failed: {reason}, output '{output}'");
        NodeError::Failed(text)
    };
    let mut file = tempfile::Builder::new()
        .prefix("ganeti-iallocator.")
        .tempfile()
        .map_err(|error| failed(error.to_string(), ""))?;
    file.write_all(request.to_string().as_bytes())
        .and_then(|()| file.flush())
        .map_err(|error| failed(error.to_string(), ""))?;
    let done = Process::new(&script, ALLOCATOR_LIMIT)
        .args([file.path()])
        .args(options)
        .run()
        .await
        .map_err(|error| failed(error.to_string(), ""))?;
    match done.failure() {
        Some(reason) => Err(failed(reason, &done.output())),
        None => Ok(done.stdout_text()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_script_reads_the_request_and_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine");
        std::fs::write(&path, "#!/bin/sh\ncat \"$1\"; shift; echo \" $*\"\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let dirs = [dir.path().to_owned()];
        let request = serde_json::json!({"version": 2});
        let answer = run(&dirs, "mine", &["--x=1".into()], &request).await.unwrap();
        assert_eq!(answer, "{\"version\":2} --x=1\n");
        let error = run(&dirs, "other", &[], &request).await.unwrap_err();
        assert_eq!(error.to_string(), "iallocator module 'other' not found in the search path");
        let error = run(&dirs, "../mine", &[], &request).await.unwrap_err();
        assert!(error.to_string().contains("not found"));
    }
}
