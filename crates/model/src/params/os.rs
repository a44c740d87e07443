//! Parameters of operating system definitions: names and values are the definition's own. Layers: cluster by definition,
//! cluster by definition and variant, instance.

use super::{fill as lay, overlay};
use crate::config::Cluster;
use crate::error::{GanetiError, Result};
use crate::param::Dict;
use crate::python;

/// The name without the variant: `debian` of `debian+testing`.
pub fn base_name(os: &str) -> &str {
    os.split_once('+').map_or(os, |(name, _)| name)
}

/// The variant: `testing` of `debian+testing`, empty when there is none.
pub fn variant(os: &str) -> &str {
    os.split_once('+').map_or("", |(_, variant)| variant)
}

fn layers(levels: &Dict, os: &str, overrides: &Dict) -> Dict {
    let mut filled = Dict::new();
    overlay(&mut filled, levels, base_name(os));
    overlay(&mut filled, levels, os);
    lay(&filled, overrides)
}

/// The public parameters (Ganeti 3.0, `objects.py` `Cluster.SimpleFillOS`).
pub fn fill(cluster: &Cluster, os: &str, overrides: &Dict) -> Dict {
    layers(&cluster.osparams, os, overrides)
}

/// The private parameters.
pub fn fill_private(cluster: &Cluster, os: &str, overrides: &Dict) -> Dict {
    layers(&cluster.osparams_private_cluster, os, overrides)
}

/// Public, private and secret parameters as one; a name may be in one of them only (Ganeti 3.0, `Cluster.SimpleFillOS`).
pub fn fill_all(
    cluster: &Cluster,
    os: &str,
    public: &Dict,
    private: &Dict,
    secret: &Dict,
) -> Result<Dict> {
    let public = fill(cluster, os, public);
    let private = fill_private(cluster, os, private);
    let layers = [&public, &private, secret];
    let repeated =
        |name: &String| layers.iter().filter(|layer| layer.contains_key(name)).count() > 1;
    let named = |layer: &Dict| {
        let mut names: Vec<String> =
            layer.keys().filter(|name| repeated(name)).map(|name| python::repr_str(name)).collect();
        names.sort_unstable();
        if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
    };
    if layers.iter().any(|layer| layer.keys().any(repeated)) {
        return Err(GanetiError::prereq_plain(format!(
            "Cannot assign multiple values to OS parameters.\n\n      \
             Conflicting OS parameters that would have been set by this operation:\n      \
             - at public visibility:  {}\n      \
             - at private visibility: {}\n      \
             - at secret visibility:  {}\n      ",
            named(&public),
            named(&private),
            named(secret)
        )));
    }
    Ok(lay(&lay(&public, &private), secret))
}
