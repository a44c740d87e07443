//! Pictures of an instance's screen: QEMU writes one into the instance's private directory, it is read and removed.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::command_line::Files;
use super::qmp::{Qmp, QmpError};
use super::runtime::Runtime;
use super::runtime_dir;
use crate::spec::InstanceSpec;
use crate::{NodeError, Result};

/// Several pictures may be taken at once.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What every PNG begins with.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The picture's file: where it is, and where QEMU sees it, which may be confined to a directory.
struct Picture {
    path: std::path::PathBuf,
    seen: String,
}

impl Drop for Picture {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.path);
    }
}

fn picture(spec: &InstanceSpec, files: &Files) -> Picture {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("screen-{}-{number}.png", std::process::id());
    match spec.hv_flag("use_chroot") {
        true => Picture { path: files.chroot().join(&name), seen: format!("/{name}") },
        false => {
            let path = files.run.join(&name);
            Picture { seen: path.to_string_lossy().into_owned(), path }
        }
    }
}

/// Takes a picture; `run` gives QEMU a command.
pub(crate) async fn take<F>(
    spec: &InstanceSpec,
    files: &Files,
    run: impl FnOnce(&'static str, Value) -> F,
) -> Result<Vec<u8>>
where
    F: Future<Output = Result<Value, QmpError>>,
{
    let failed = |why: String| {
        NodeError::Failed(format!("no picture of the screen of {}: {why}", spec.name))
    };
    let picture = picture(spec, files);
    let arguments = json!({"filename": picture.seen, "format": "png"});
    match run("screendump", arguments).await {
        Ok(_) => {}
        // QEMU says so of an instance without a graphics card.
        Err(QmpError::Refused { desc, .. }) if desc.contains("no console") => {
            return Err(NodeError::Unsupported(format!("instance {} has no screen", spec.name)));
        }
        Err(error) => return Err(failed(error.to_string())),
    }
    let bytes = fs::read(&picture.path).map_err(|error| failed(error.to_string()))?;
    if !bytes.starts_with(PNG) {
        return Err(failed("QEMU wrote something that is no PNG".into()));
    }
    Ok(bytes)
}

/// Takes a picture of an instance of a data directory by QEMU's second monitor, beside the server that may hold the first.
pub(crate) async fn take_beside(data_dir: &Path, name: &str) -> Result<Vec<u8>> {
    let mut all = Runtime::load_all(&runtime_dir(data_dir)).into_iter();
    let runtime = all.find(|runtime| runtime.spec.name == name && runtime.living().is_some());
    let Some(runtime) = runtime else {
        return Err(NodeError::Failed(format!("instance {name} does not run here")));
    };
    let files = runtime.files();
    let (qmp, _events) = Qmp::connect(&files.qmp_debug())
        .await
        .map_err(|error| NodeError::Failed(format!("instance {name}: {error}")))?;
    take(&runtime.spec, &files, async |command, arguments| qmp.run(command, arguments).await).await
}
