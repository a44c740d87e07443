//! Every limit of the door, with its name.

use std::time::Duration;

/// Requests at work at the same time, unless told otherwise; Ganeti's default for `--max-clients`.
pub const REQUESTS_AT_WORK: usize = 20;

/// Open connections, unless the limit on open files is lower.
pub const CONNECTIONS: usize = 4096;

/// Of the files that the process may open, those that are not for connections.
pub const OTHER_FILES: usize = 256;

/// Connections that the kernel keeps until they are accepted.
pub const BACKLOG: u32 = 1024;

/// The bytes of a request's body.
pub const BODY_BYTES: usize = 16 << 20;

/// The time in which a body must have come.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// The bytes that a refused body is read on for, so that its sender reads the refusal.
pub const DISCARD_BYTES: usize = 64 << 20;

/// The time for the same.
pub const DISCARD_TIME: Duration = Duration::from_secs(10);

/// The bytes of a request's line and headers; Ganeti's limits are 8192 and 4096.
pub const HEAD_BYTES: usize = 64 << 10;

/// The header lines of a request.
pub const HEADERS: usize = 100;

/// The time in which the head of a request must have come, counted from the end of the one before: also how long an
/// HTTP/1.1 connection may be idle.
pub const HEAD_TIME: Duration = Duration::from_secs(60);

/// How long a connection with no request at work is kept, whatever it sends.
pub const IDLE_TIME: Duration = Duration::from_secs(120);

/// How long a client may leave us waiting before it takes more of an answer.
pub const WRITE_TIME: Duration = Duration::from_secs(30);

/// The time of a TLS handshake; Ganeti's.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Requests of one HTTP/2 connection at the same time.
pub const STREAMS: u32 = 128;

/// How long running requests have to end when the server stops; `daemon-util` kills a daemon after 30 s.
pub const SHUTDOWN_TIME: Duration = Duration::from_secs(20);

/// The bytes of a users file.
pub const USERS_BYTES: u64 = 4 << 20;

/// The memory that hashing one password may take, in KiB.
pub const ARGON2_KIB: u32 = 1 << 20;

/// Wrong passwords that are remembered, so that trying again costs no hashing.
pub const WRONG_PASSWORDS: usize = 4096;

/// Passwords that are hashed at the same time.
pub const HASHING: usize = 2;

/// Certificate files are looked at again when they were not for this long.
pub const CERTIFICATE_AGE: Duration = Duration::from_secs(1);

/// The bytes of one piece of a list that is sent piece by piece.
pub const PIECE_BYTES: usize = 64 << 10;
