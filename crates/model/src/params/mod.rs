//! Parameters in layers: tables of names, types and defaults, and how the layers are filled into what holds.

use serde_json::Value;

use crate::param::Dict;

/// Lays `over` over `base`: names of `base` first, then those only `over` has.
pub fn fill(base: &Dict, over: &Dict) -> Dict {
    let mut filled = base.clone();
    for (name, value) in over {
        filled.insert(name.clone(), value.clone());
    }
    filled
}

/// A dictionary inside another, empty when it is not there.
pub fn inner<'a>(dict: &'a Dict, name: &str) -> Option<&'a Dict> {
    dict.get(name).and_then(Value::as_object)
}
