//! Pictures of instances' screens, for programs beside the server.

use std::path::Path;

use crate::Result;

/// A picture of what an instance shows, as PNG; the instance is found in a server's data directory, and the server is not asked.
pub async fn take(data_dir: &Path, instance: &str) -> Result<Vec<u8>> {
    crate::hypervisor::kvm::screen::take_beside(data_dir, instance).await
}
