//! Names that instances get.

use model::config::Config;
use model::error::{ErrorCode, GanetiError, Result};

use crate::lu::Cx;

/// Refuses a name that is taken.
pub(crate) fn check_new_name(config: &Config, name: &str) -> Result<()> {
    if config.instance_by_name(name).is_some() {
        return Err(GanetiError::already_exists(format!(
            "Instance '{name}' is already in the cluster"
        )));
    }
    Ok(())
}

/// A host name as Ganeti keeps it: lower case, of letters, digits, dots, dashes and underscores (3.0,
/// `netutils.Hostname.GetNormalizedName`).
pub(crate) fn normalise_name(name: &str) -> Result<String> {
    let name = name.to_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    let trimmed = name.strip_suffix('.').unwrap_or(&name);
    if name.len() <= 255 && trimmed.split('.').all(label) {
        Ok(trimmed.to_owned())
    } else {
        Err(GanetiError::wrong_input(format!("Invalid hostname '{name}'")))
    }
}

/// Looks a name up and checks that the answer is that name in full (Ganeti 3.0, `CheckHostnameSane`).
pub(crate) async fn resolve(cx: &Cx, name: &str) -> Result<crate::names::Host> {
    let host = cx.names().resolve(name).await?;
    if host.name != name {
        cx.info(&format!("Resolved given name '{name}' to '{}'", host.name));
    }
    if !model::name::matches_dotted_prefix(name, &host.name) {
        return Err(GanetiError::wrong_input(format!(
            "Resolved hostname '{}' does not look the same as given hostname '{name}'",
            host.name
        )));
    }
    Ok(host)
}

/// Refuses an address that somebody answers at.
pub(crate) async fn check_unused(cx: &Cx, host: &crate::names::Host, name: &str) -> Result<()> {
    let config = cx.config();
    let known = config.nodes.values().map(|node| node.primary_ip.clone()).collect::<Vec<_>>();
    if cx.names().answers(host.ip, known.into_iter()).await {
        return Err(GanetiError::prereq(
            format!("IP {} of instance {name} already in use", host.ip),
            ErrorCode::ResourceNotUnique,
        ));
    }
    Ok(())
}
