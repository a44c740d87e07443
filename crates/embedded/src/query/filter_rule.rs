//! The fields of job filter rules.

use model::config::Filter;
use model::query::FieldKind;

use super::field::{normal, subject};

subject!(
    /// Job filter rules.
    FilterRules, &'a Filter, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::Other;
    vec![
        row("watermark", "Watermark", Other, "Highest job ID used at the time when the filter was added",
            |rule| normal(rule.watermark)),
        row("priority", "Priority", Other, "Filter priority", |rule| normal(rule.priority)),
        row("predicates", "Predicates", Other, "List of filter predicates", |rule| normal(rule.predicates.clone())),
        row("action", "Action", Other, "Filter action", |rule| normal(rule.action.clone())),
        row("reason_trail", "ReasonTrail", Other, "Reason why this filter was added",
            |rule| normal(rule.reason_trail.clone())),
        row("uuid", "UUID", Other, "Filter ID", |rule| normal(&rule.uuid)),
    ]
}
