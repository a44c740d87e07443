//! The opcodes on the queue itself, for tests.

use crate::param::NonEmpty;

opcodes! {
    /// Waits, holding its locks; for tests of the queue.
    TestDelay "OP_TEST_DELAY" hooks() summary(duration) {
        /// How long to wait, in seconds.
        duration: f64,
        /// Whether the master waits.
        on_master: bool = true,
        /// The nodes that wait.
        on_nodes: Vec<NonEmpty> = Default::default(),
        /// The UUIDs of the nodes that wait.
        on_node_uuids: Option<Vec<NonEmpty>> = None,
        /// How often to wait; 0 is once.
        repeat: u64 = 0,
        /// Whether a signal ends the wait.
        interruptible: bool = false,
        /// Whether no locks are taken.
        no_locks: bool = true,
    }
}
