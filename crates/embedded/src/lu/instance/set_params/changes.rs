//! Lists of changes to a list of disks or NICs: how an item is found, and where one is put (Ganeti 3.0,
//! `ApplyContainerMods` and its helpers).

use model::error::{ErrorCode, GanetiError, Result};
use model::param::ItemChange;
use model::python;
use serde_json::Value;

/// What can be found by a name or UUID.
pub(super) trait Item {
    fn is(&self, identifier: &str) -> bool;
}

impl Item for model::config::Nic {
    fn is(&self, identifier: &str) -> bool {
        self.uuid.as_str() == identifier || self.name.as_deref() == Some(identifier)
    }
}

impl Item for std::sync::Arc<model::config::Disk> {
    fn is(&self, identifier: &str) -> bool {
        self.meta.uuid.as_str() == identifier || self.name.as_deref() == Some(identifier)
    }
}

/// The older form adds or removes one item at a time.
pub(super) fn check_legacy(kind: &str, changes: &[ItemChange]) -> Result<()> {
    let counted = changes.iter().filter(|change| change.legacy && change.action != "modify");
    if counted.count() > 1 {
        return Err(GanetiError::wrong_input(format!(
            "Only one {kind} add/attach/remove/detach operation is supported at a time"
        )));
    }
    Ok(())
}

/// Nothing is said about an item that goes.
pub(super) fn check_empty(kind: &str, change: &ItemChange) -> Result<()> {
    if ["remove", "detach"].contains(&change.action.as_str()) && !change.params.is_empty() {
        return Err(GanetiError::wrong_input(format!(
            "No settings should be passed when removing or detaching a {kind}"
        )));
    }
    Ok(())
}

/// An identifier as a number, as Python would read it.
fn number(identifier: &Value) -> Option<i128> {
    match identifier {
        Value::String(text) => python::int(text),
        other => other.as_i64().map(i128::from),
    }
}

fn too_far(kind: &str, index: i128, length: usize) -> GanetiError {
    GanetiError::exec(format!("Got {kind} index {index}, but there are only {length}"))
}

fn negative() -> GanetiError {
    GanetiError::exec("Not accepting negative indices other than -1")
}

/// Which item an identifier means.
pub(super) fn find<T: Item>(kind: &str, identifier: &Value, items: &[T]) -> Result<usize> {
    if let Some(index) = number(identifier) {
        let at = match index {
            -1 => items.len().checked_sub(1),
            index if index < -1 => return Err(negative()),
            index => usize::try_from(index).ok(),
        };
        return match at.filter(|at| *at < items.len()) {
            Some(at) => Ok(at),
            // Ganeti: an index just past the end is an error of Python's (3.0, GetItemFromContainer).
            None if usize::try_from(index).is_ok_and(|index| index <= items.len())
                || index == -1 =>
            {
                Err(GanetiError::exec("list index out of range"))
            }
            None => Err(too_far(kind, index, items.len())),
        };
    }
    let identifier = python::str(identifier);
    items.iter().position(|item| item.is(&identifier)).ok_or_else(|| {
        GanetiError::prereq(
            format!("Cannot find {kind} with identifier {identifier}"),
            ErrorCode::UnknownEntity,
        )
    })
}

/// Where a new item goes.
pub(super) fn place(kind: &str, identifier: &Value, length: usize) -> Result<usize> {
    let refused = || GanetiError::wrong_input("Only positive integer or -1 is accepted");
    match number(identifier).ok_or_else(refused)? {
        -1 => Ok(length),
        index if index < 0 => Err(negative()),
        index => {
            let at = usize::try_from(index).ok().filter(|at| *at <= length);
            at.ok_or_else(|| too_far(kind, index, length))
        }
    }
}
