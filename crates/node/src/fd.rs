//! Waiting on descriptors that the executor has no type of its own for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets the executor wait on a descriptor that is owned, so that it stays what it is for as long as it is waited on.
#[expect(deprecated, reason = "sound for an OwnedFd; its successor is an unsafe function")]
pub(crate) fn watchable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
