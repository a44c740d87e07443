//! The opcodes on tags.

use crate::param::{NonEmpty, TagKind};

opcodes! {
    /// Removes tags from an object.
    TagsDel "OP_TAGS_DEL" hooks() summary() {
        /// What kind of object it is.
        kind: TagKind,
        /// The tags.
        tags: Vec<String>,
        /// The name.
        name: Option<String> = None,
    }
    /// Looks for tags in the whole cluster.
    TagsSearch "OP_TAGS_SEARCH" hooks() summary(pattern) {
        /// The pattern of tags wanted, a regular expression.
        pattern: NonEmpty,
    }
    /// Adds tags to an object.
    TagsSet "OP_TAGS_SET" hooks() summary() {
        /// What kind of object it is.
        kind: TagKind,
        /// The tags.
        tags: Vec<String>,
        /// The name.
        name: Option<String> = None,
    }
}
