//! Overwriting new disks (Ganeti 3.0, `WipeDisks`, `ImageDisks`).

use model::config::Instance;
use model::error::{GanetiError, Result};
use model::name::Uuid;

use super::{again, disks, layout, spec_of};
use crate::lu::Cx;
use crate::lu::cx::exec_error;
use crate::spec;

/// The largest part that is wiped at once, in MiB, and the part of a disk that is at most (Ganeti 3.0, `MAX_WIPE_CHUNK`,
/// `MIN_WIPE_CHUNK_PERCENT`).
const CHUNK_MAX_MIB: u64 = 1024;
const CHUNK_PERCENT: u64 = 10;

/// Wipes all disks of an instance.
pub(crate) async fn all(cx: &Cx, uuid: &Uuid) -> Result<()> {
    let instance = again(cx, uuid)?;
    for at in 0..instance.disks.len() {
        one(cx, &instance, at, 0).await?;
    }
    Ok(())
}

/// Wipes one disk of an instance, from an offset in MiB to its end.
pub(crate) async fn one(cx: &Cx, instance: &Instance, at: usize, from: u64) -> Result<()> {
    let config = cx.config();
    let Some(disk) = config.instance_disks(instance).get(at).cloned() else { return Ok(()) };
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let told = spec_of(cx, instance);
    let disk_spec = spec::disk(&config, instance, &disk);
    let chunk = (disk.size_mib * CHUNK_PERCENT / 100).clamp(1, CHUNK_MAX_MIB);
    let range = match from {
        0 => String::new(),
        from => {
            format!(" (from {} to {})", layout::format_mib(from), layout::format_mib(disk.size_mib))
        }
    };
    cx.info(&format!("* Wiping disk {at}{range}"));
    let mut offset = from;
    while offset < disk.size_mib {
        let size = chunk.min(disk.size_mib - offset);
        node.wipe_disk(&told, &disk_spec, offset, size).await.map_err(|error| {
            GanetiError::exec(format!(
                "Could not wipe disk {at} at offset {offset} for size {size}: {error}"
            ))
        })?;
        offset += size;
    }
    Ok(())
}

/// Writes an image to the first disk of an instance.
pub(crate) async fn image(cx: &Cx, uuid: &Uuid, image: &str) -> Result<()> {
    let instance = again(cx, uuid)?;
    let config = cx.config();
    let Some(disk) = config.instance_disks(&instance).first().cloned() else { return Ok(()) };
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    disks::assemble(cx, uuid, None, false).await?;
    cx.info(&format!("* Imaging disk 0, size {}", layout::format_mib(disk.size_mib)));
    let to = spec::disk(&config, &instance, &disk);
    // An image is a file on the node, which is to say a disk of the template `file`.
    let mut from = to.clone();
    from.dev_type = model::param::DiskTemplate::File;
    from.logical_id = vec![serde_json::json!("loop"), serde_json::json!(image)];
    node.copy_disk(&spec_of(cx, &instance), &from, &to).await.map_err(|error| {
        GanetiError::exec(format!("Could not image disk '0' on node '{}': {error}", node.name()))
    })
}
