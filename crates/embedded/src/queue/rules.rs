//! What filter rules and a job's own reasons say about starting it: pure.

use std::sync::Arc;

use model::compat::Compat;
use model::config::Filter;
use model::job::Job;
use model::name::JobId;
use model::opcode::Audience;
use serde_json::Value;

use super::schedule::{Bucket, Verdict};

/// What is to be done with a queued job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It may be scheduled, as the verdict says.
    Keep(Verdict),
    /// It is cancelled.
    Reject,
}

/// What a rule does to the jobs it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Accept,
    Pause,
    Reject,
    Continue,
    RateLimit(u64),
}

impl Action {
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => match text.as_str() {
                "ACCEPT" => Some(Self::Accept),
                "PAUSE" => Some(Self::Pause),
                "REJECT" => Some(Self::Reject),
                "CONTINUE" => Some(Self::Continue),
                _ => None,
            },
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(name), limit] if name == "RATE_LIMIT" => {
                    limit.as_u64().filter(|limit| *limit > 0).map(Self::RateLimit)
                }
                _ => None,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}

/// Whether an action is one of those there are.
pub(crate) fn is_action(value: &Value) -> bool {
    Action::parse(value).is_some()
}

/// Judges a job by the rules, in the order of priority, watermark, UUID: the first that applies and does not say CONTINUE
/// decides.
pub(crate) fn judge(rules: &[Arc<Filter>], job: &Job, compat: Compat) -> Judgement {
    let mut verdict = Verdict { paused: false, limits: labels(job) };
    if rules.is_empty() {
        return Judgement::Keep(verdict);
    }
    let facts = Facts::of(job, compat);
    let mut rules: Vec<&Arc<Filter>> = rules.iter().collect();
    rules.sort_by(|a, b| {
        (a.priority, a.watermark, &a.uuid).cmp(&(b.priority, b.watermark, &b.uuid))
    });
    for rule in rules {
        if !applies(rule, &facts) {
            continue;
        }
        match Action::parse(&rule.action) {
            Some(Action::Continue) | None => continue,
            Some(Action::Accept) => {}
            Some(Action::Pause) => verdict.paused = true,
            Some(Action::Reject) => return Judgement::Reject,
            Some(Action::RateLimit(limit)) => {
                verdict.limits.push((Bucket::Filter(rule.uuid.clone()), limit));
            }
        }
        break;
    }
    Judgement::Keep(verdict)
}

/// The ad-hoc rate limits: reasons with the text `rate-limit:<n>:<label>`.
fn labels(job: &Job) -> Vec<(Bucket, u64)> {
    let mut limits: Vec<(Bucket, u64)> = Vec::new();
    for entry in job.ops.iter().flat_map(|op| &op.input.common.reason) {
        let parsed = entry.1.strip_prefix("rate-limit:").and_then(|rest| rest.split_once(':'));
        if let Some((limit, label)) = parsed
            && let Ok(limit) = limit.parse::<u64>()
            && limit > 0
        {
            let bucket = Bucket::Label(label.to_owned());
            match limits.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, known)) => *known = limit.min(*known),
                None => limits.push((bucket, limit)),
            }
        }
    }
    limits
}

/// What predicates look at.
struct Facts {
    id: JobId,
    ops: Vec<Value>,
    /// `{source, reason, timestamp}` each.
    reasons: Vec<Value>,
}

impl Facts {
    fn of(job: &Job, compat: Compat) -> Self {
        let wire = |op: &model::job::JobOp| op.input.to_wire(Audience::Client, compat).into();
        let entries = job.ops.iter().flat_map(|op| &op.input.common.reason);
        let reasons = entries.map(
            |entry| serde_json::json!({"source": entry.0, "reason": entry.1, "timestamp": entry.2}),
        );
        Self { id: job.id, ops: job.ops.iter().map(wire).collect(), reasons: reasons.collect() }
    }
}

/// Whether all of a rule's predicates hold. A field that is missing or of another type does not.
fn applies(rule: &Filter, facts: &Facts) -> bool {
    let Some(predicates) = rule.predicates.as_array() else { return false };
    predicates.iter().all(|predicate| {
        let Some([Value::String(name), expression]) = predicate.as_array().map(Vec::as_slice)
        else {
            return false;
        };
        let holds = |value: &Value| evaluate(expression, value, rule.watermark).unwrap_or(false);
        match name.as_str() {
            "jobid" => holds(&serde_json::json!({"id": facts.id})),
            "opcode" => facts.ops.iter().any(holds),
            "reason" => facts.reasons.iter().any(holds),
            _ => false,
        }
    })
}

/// Evaluates an expression on an object; `None` when it cannot be.
fn evaluate(expression: &Value, object: &Value, watermark: u64) -> Option<bool> {
    let parts = expression.as_array()?;
    let (operator, operands) = parts.split_first()?;
    let each = || -> Option<Vec<bool>> {
        operands.iter().map(|operand| evaluate(operand, object, watermark)).collect()
    };
    let field = || -> Option<&Value> {
        let path = operands.first()?.as_str()?;
        path.split('.').try_fold(object, |value, key| value.get(key))
    };
    let compared = || -> Option<std::cmp::Ordering> {
        let wanted = operands.get(1)?;
        match (field()?, wanted) {
            (Value::Number(left), Value::Number(right)) => {
                left.as_f64()?.partial_cmp(&right.as_f64()?)
            }
            (Value::Number(left), Value::String(text)) if text == "watermark" => {
                Some(left.as_u64()?.cmp(&watermark))
            }
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            _ => None,
        }
    };
    let equal = || -> Option<bool> {
        match (field()?, operands.get(1)?) {
            (Value::Bool(left), Value::Bool(right)) => Some(left == right),
            _ => compared().map(std::cmp::Ordering::is_eq),
        }
    };
    match operator.as_str()? {
        "&" => Some(each()?.into_iter().all(|holds| holds)),
        "|" => Some(each()?.into_iter().any(|holds| holds)),
        "!" => evaluate(operands.first()?, object, watermark).map(|holds| !holds),
        "?" => Some(match field()? {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(_) => true,
        }),
        "=" | "==" => equal(),
        "!=" => equal().map(|equal| !equal),
        "<" => compared().map(std::cmp::Ordering::is_lt),
        ">" => compared().map(std::cmp::Ordering::is_gt),
        "<=" => compared().map(std::cmp::Ordering::is_le),
        ">=" => compared().map(std::cmp::Ordering::is_ge),
        "=~" => {
            let pattern = regex::Regex::new(operands.get(1)?.as_str()?).ok()?;
            Some(pattern.is_match(field()?.as_str()?))
        }
        "=[]" => Some(field()?.as_array()?.contains(operands.get(1)?)),
        _ => None,
    }
}
