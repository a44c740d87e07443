//! Disks as the master daemon reads them when it takes a job in: what it cannot read never becomes a job.

use model::error::{ErrorClass, GanetiError, Result};
use model::opcode::{InstanceCreate, Op, OpCode};
use serde_json::{Value, json};

/// Reads the disks in the opcodes of a job.
pub(crate) fn read(ops: &mut [Op]) -> Result<()> {
    check_changes(ops)?;
    for op in ops {
        if let OpCode::InstanceCreate(create) = &mut op.code {
            read_disks(create)?;
        }
    }
    Ok(())
}

fn refused(why: impl std::fmt::Display) -> GanetiError {
    let text = format!("Failed to parse request: SubmitJob: Can't parse value for 'disks': {why}");
    GanetiError::new(ErrorClass::RequestError, text)
}

/// Reads the disks of a creation as the master daemon does when it takes a job in (3.0.2, `Ganeti.Objects.Disk`): sizes become MiB,
/// and what it cannot read never becomes a job.
fn read_disks(create: &mut InstanceCreate) -> Result<()> {
    for disk in &mut create.disks {
        if let Some(mode) = disk.0.get("mode").filter(|mode| **mode != "ro" && **mode != "rw") {
            return Err(refused(format!(
                "Can't parse value for 'mode': Invalid string value for type DiskAccess: {mode}"
            )));
        }
        if disk.0.get("spindles").is_some_and(Value::is_string) {
            return Err(refused("Can't parse value for 'spindles': Unable to read Int".to_owned()));
        }
        if let Some(size) = disk.0.get_mut("size")
            && let Some(text) = size.as_str()
        {
            *size = json!(mib(text).map_err(refused)?);
        }
    }
    Ok(())
}

/// A size in MiB from a text with a unit, or why it is none; whole numbers only.
fn mib(text: &str) -> Result<i64, String> {
    let unreadable = || format!("Can't parse string '{text}'");
    let trimmed = text.trim();
    let sign = usize::from(trimmed.starts_with('-'));
    let digits = trimmed[sign..].find(|c: char| !c.is_ascii_digit());
    let (number, unit) = trimmed.split_at(digits.map_or(trimmed.len(), |at| at + sign));
    let number: i64 = number.parse().map_err(|_| unreadable())?;
    let unit = unit.trim();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        "t" | "tb" | "tib" => 1024 * 1024,
        other if other.starts_with('.') => return Err(unreadable()),
        _ => return Err(format!("Unknown unit '{unit}'")),
    };
    number.checked_mul(factor).ok_or_else(unreadable)
}

/// Refuses changes of disks that the master daemon cannot read, as it does before there is a job (Ganeti 3.0,
/// `IDiskParams`).
fn check_changes(ops: &[Op]) -> Result<()> {
    let changes = ops.iter().filter_map(|op| match &op.code {
        OpCode::InstanceSetParams(op) => Some(&op.disks.0),
        _ => None,
    });
    let readable = |params: &model::param::Dict| {
        let mode = params.get("mode").and_then(Value::as_str);
        let size = params.get("size").and_then(Value::as_str);
        mode.is_none_or(|mode| ["ro", "rw"].contains(&mode))
            && size.is_none_or(|size| model::units::parse_unit(size).is_ok())
    };
    if changes.flatten().all(|change| readable(&change.params)) {
        return Ok(());
    }
    Err(refused("Unable to read String"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::compat::Compat;
    use model::opcode::OpId;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        let check = |text: &str, expected: Result<i64, &str>| {
            assert_eq!(mib(text), expected.map_err(str::to_owned), "{text}");
        };
        check("10", Ok(10));
        check(" 5", Ok(5));
        check("10 g", Ok(10240));
        check("10GB", Ok(10240));
        check("10gib", Ok(10240));
        check("-1", Ok(-1));
        check("big", Err("Can't parse string 'big'"));
        check("-", Err("Can't parse string '-'"));
        check("1.5g", Err("Can't parse string '1.5g'"));
        check("10x", Err("Unknown unit 'x'"));
        check("1g1", Err("Unknown unit 'g1'"));
        check("99999999999999999999", Err("Can't parse string '99999999999999999999'"));
        check("\u{e9}", Err("Can't parse string '\u{e9}'"));
    }

    #[test]
    fn disks_that_cannot_be_read_are_refused() {
        let check = |disk: Value, why: &str| {
            let params = json!({"instance_name": "a", "mode": "create", "disks": [disk], "nics": [], "disk_template": "file"});
            let op = OpId::InstanceCreate.read(params.as_object().unwrap(), Compat::V30).unwrap();
            assert_eq!(read(&mut [op]), Err(refused(why)));
        };
        check(json!({"size": "big"}), "Can't parse string 'big'");
        check(json!({"size": "10x"}), "Unknown unit 'x'");
        check(json!({"size": "1.5g"}), "Can't parse string '1.5g'");
        check(json!({"size": "1g1"}), "Unknown unit 'g1'");
        check(
            json!({"size": 5, "mode": "zz"}),
            "Can't parse value for 'mode': Invalid string value for type DiskAccess: \"zz\"",
        );
        check(
            json!({"size": 5, "spindles": "x"}),
            "Can't parse value for 'spindles': Unable to read Int",
        );
    }
}
