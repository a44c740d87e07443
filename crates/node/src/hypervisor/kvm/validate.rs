//! Hypervisor parameters that depend on this machine: files, users, what this QEMU can. Ganeti's words where it has some (3.0,
//! `hv_base` and `hv_kvm/validation.py`).

use std::path::Path;
use std::time::Duration;

use model::param::Dict;
use serde_json::{Value, json};

use super::command_line;
use crate::process::Process;
use crate::{NodeError, Result, host};

/// How long QEMU may take to say what it can.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

const FILES: &[(&str, &str)] = &[
    ("kernel_path", "not found or not a file"),
    ("initrd_path", "not found or not a file"),
    ("floppy_image_path", "not found or not a file"),
    ("cdrom_image_path", "not found or not a file or URL"),
    ("cdrom2_image_path", "not found or not a file or URL"),
    ("vnc_password_file", "not found or not a file"),
    ("spice_password_file", "not found or not a file"),
];

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

fn text<'a>(hvparams: &'a Dict, name: &str) -> &'a str {
    hvparams.get(name).and_then(Value::as_str).unwrap_or("")
}

/// Checks all of them; `program` is QEMU.
pub(crate) async fn validate(hvparams: &Dict, program: Option<&Path>) -> Result<()> {
    for (name, what) in FILES {
        let path = text(hvparams, name);
        if !path.is_empty() && !path.contains("://") && !Path::new(path).is_file() {
            return Err(failed(format!(
                "Parameter '{name}' fails validation: {what} (current value: '{path}')"
            )));
        }
    }
    let directory = text(hvparams, "vnc_x509_path");
    if !directory.is_empty() && !Path::new(directory).is_dir() {
        return Err(failed(format!(
            "Parameter 'vnc_x509_path' fails validation: not found or not a directory (current value: '{directory}')"
        )));
    }
    let user = text(hvparams, "security_domain");
    if text(hvparams, "security_model") == "user" && host::user(user).is_none() {
        return Err(failed(format!("Unknown security domain user {user}")));
    }
    if !text(hvparams, "spice_bind").is_empty() && !text(hvparams, "vnc_bind_address").is_empty() {
        return Err(failed(
            "Both SPICE and VNC are configured, but only one of them can be used at a given time",
        ));
    }
    command_line::parse_cpu_mask(text(hvparams, "cpu_mask"))?;
    command_line::split_words(text(hvparams, "kvm_extra"))?;
    let machine = text(hvparams, "machine_version");
    if let Some(program) = program.filter(|_| !machine.is_empty())
        && !machines(program).await?.has(machine)
    {
        return Err(failed(format!("Unsupported machine version: {machine}")));
    }
    Ok(())
}

/// The machines that a QEMU can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machines {
    names: Vec<String>,
    /// Names that stand for others.
    aliases: Vec<(String, String)>,
}

impl Machines {
    fn has(&self, name: &str) -> bool {
        // Options of the machine may follow.
        let name = name.split(',').next().unwrap_or_default();
        self.names.iter().any(|known| known == name)
    }

    /// The name that means the same machine in later QEMUs too.
    pub(crate) fn lasting(&self, name: &str) -> Option<&str> {
        let alias = self.aliases.iter().find(|(alias, _)| alias == name);
        alias.map(|(_, machine)| machine.as_str())
    }
}

/// Reads the table that `-machine help` prints.
fn parse_machines(table: &str) -> Machines {
    let mut machines = Machines::default();
    for line in table.lines().skip(1) {
        let Some((name, doc)) = line.split_once(' ') else { continue };
        machines.names.push(name.to_owned());
        let alias = doc.split_once("(alias of ").and_then(|(_, rest)| rest.split_once(')'));
        if let Some((machine, _)) = alias {
            machines.aliases.push((name.to_owned(), machine.to_owned()));
        }
    }
    machines
}

/// Asks QEMU.
pub(crate) async fn machines(program: &Path) -> Result<Machines> {
    let said = Process::new(program, ANSWER_LIMIT).args(["-machine", "help"]).run().await;
    let said = said.map_err(|error| failed(error.to_string()))?;
    Ok(parse_machines(&said.stdout_text()))
}

/// The machine version by the name that means the same in later QEMUs too, where the instance would get one by a name that does
/// not.
pub(crate) async fn lasting_machine(hvparams: &Dict) -> Dict {
    let wanted = hvparams.get("machine_version").and_then(Value::as_str).unwrap_or("");
    let wanted = if wanted.is_empty() { "pc" } else { wanted };
    let Some(program) = super::find_qemu() else { return Dict::new() };
    let machines = machines(&program).await.unwrap_or_default();
    let lasting = machines.lasting(wanted).map(|name| ("machine_version".to_owned(), json!(name)));
    lasting.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
";

    #[test]
    fn machines_are_known_by_their_lasting_names() {
        let machines = parse_machines(TABLE);
        assert_eq!(machines.lasting("pc"), Some("pc-i440fx-7.2"));
        assert_eq!(machines.lasting("q35"), Some("pc-q35-7.2"));
        assert_eq!(machines.lasting("pc-q35-7.2"), None);
        assert!(machines.has("pc-i440fx-7.2,kernel-irqchip=off"));
        assert!(!machines.has("pc-i440fx"));
    }

    #[tokio::test]
    async fn users_and_viewers_are_checked() {
        let check = async |changes: Value, expected: &str| {
            let hvparams = changes.as_object().unwrap().clone();
            let error = validate(&hvparams, None).await.err().map(|error| error.to_string());
            assert_eq!(error.as_deref().unwrap_or(""), expected, "{changes}");
        };
        check(json!({"security_model": "user", "security_domain": "root"}), "").await;
        check(
            json!({"security_model": "user", "security_domain": "no:body"}),
            "Unknown security domain user no:body",
        )
        .await;
        check(
            json!({"spice_bind": "::1", "vnc_bind_address": "::1"}),
            "Both SPICE and VNC are configured, but only one of them can be used at a given time",
        )
        .await;
        check(
            json!({"vnc_x509_path": "/nowhere/at/all"}),
            "Parameter 'vnc_x509_path' fails validation: not found or not a directory (current value: '/nowhere/at/all')",
        )
        .await;
    }
}
