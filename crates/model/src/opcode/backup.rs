//! The opcodes on exports.

use serde_json::Value;

use crate::param::{ExportMode, ExportTarget, NonEmpty};

opcodes! {
    /// Exports an instance to a node of this cluster or to another cluster.
    BackupExport "OP_BACKUP_EXPORT" hooks("instance-export") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// How disk contents are compressed on their way.
        compress: String = "none".into(),
        /// How long the guest may take to stop, in seconds.
        shutdown_timeout: u64 = 120,
        /// The node that keeps the export, or for a remote export the receiving end of each disk.
        target_node: ExportTarget,
        /// The UUID of the node to go to.
        target_node_uuid: Option<NonEmpty> = None,
        /// Whether the instance is stopped for the export.
        shutdown: bool = true,
        /// Whether the instance is removed after the export.
        remove_instance: bool = false,
        /// Whether to go on when the removal after the export fails.
        ignore_remove_failures: bool = false,
        /// In which way.
        mode: ExportMode = ExportMode::Local,
        /// The name of the key made by the preparation, with its signature.
        x509_key_name: Option<Vec<Value>> = None,
        /// The signed certificate of the cluster that receives.
        destination_x509_ca: Option<NonEmpty> = None,
        /// Whether free space is filled with zeros before.
        zero_free_space: bool = false,
        /// How long zeroing may take at least, in seconds.
        zeroing_timeout_fixed: Option<i64> = None,
        /// How long zeroing may take for each MiB, in seconds.
        zeroing_timeout_per_mib: Option<f64> = None,
        /// Whether the instance stays stopped until the export is done.
        long_sleep: bool = false,
    }
    /// Prepares an export to another cluster: makes the handshake and the certificate it needs.
    BackupPrepare "OP_BACKUP_PREPARE" hooks() summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// In which way.
        mode: ExportMode,
    }
    /// Removes the exports of an instance from all nodes.
    BackupRemove "OP_BACKUP_REMOVE" hooks() summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
    }
}
