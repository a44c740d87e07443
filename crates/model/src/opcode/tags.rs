//! The opcodes on tags.

use crate::param::TagKind;

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
