//! Filling a disk with an image from the network, as Ganeti's `BlockdevImage` does (3.0, `backend.py`).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use crate::process::Process;
use crate::{NodeError, Result};

/// How long an image may take to come.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Whether an image is not a file of this machine.
pub(crate) fn is_url(image: &str) -> bool {
    ["http://", "https://", "ftp://", "ftps://"].iter().any(|scheme| image.starts_with(scheme))
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// The length of a file or device.
fn length(mut file: &File) -> std::io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Writes what a URL gives to the beginning of a disk, which keeps its length.
pub(crate) async fn download(url: &str, disk: &Path) -> Result<()> {
    let io = |error: std::io::Error| failed(format!("{}: {error}", disk.display()));
    let mut file = OpenOptions::new().write(true).open(disk).map_err(io)?;
    let before = length(&file).map_err(io)?;
    file.rewind().map_err(io)?;
    let max = before.to_string();
    let fetch = Process::new("curl", LIMIT)
        .args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--max-filesize",
            &max,
            "--",
            url,
        ])
        .stdout(file.try_clone().map_err(io)?);
    let fetched = fetch.run().await.map_err(|error| failed(error.to_string()))?;
    if length(&file).map_err(io)? > before {
        file.set_len(before).map_err(io)?;
        return Err(failed("Disk image larger than the disk"));
    }
    match fetched.failure() {
        None => file.sync_all().map_err(io),
        Some(reason) => {
            let said = fetched.output();
            Err(failed(format!("Failed to download '{url}': {reason} ({})", said.trim())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_files_or_addresses() {
        for (image, expected) in
            [("https://x/y", true), ("ftp://x", true), ("/srv/x", false), ("file:///x", false)]
        {
            assert_eq!(is_url(image), expected, "{image}");
        }
    }
}
