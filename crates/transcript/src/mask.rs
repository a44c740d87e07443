//! Masks: what must differ between two runs of one scenario becomes the same text on both sides. Times and figures become
//! `<time>` and `<figure>`; uuids, MAC addresses and job ids become numbered names, in the order in which they are first
//! seen, which `compare` then pairs up; what has no order is sorted. Masking what is masked already changes nothing.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use crate::recording::Exchange;
use crate::scenario::Section;

/// Keys whose numbers are figures of one machine at one moment.
const FIGURES: &[&str] = &[
    "mtotal",
    "mfree",
    "mnode",
    "dtotal",
    "dfree",
    "ctotal",
    "cnos",
    "cnodes",
    "csockets",
    "size_used",
    "free",
    "used",
];
/// Keys whose numbers are ports that the cluster hands out.
const PORTS: &[&str] = &["network_port", "port", "display"];
/// Keys whose lists are sets.
const SETS: &[&str] =
    &["tags", "disk-templates", "node_list", "instance_tags", "inst_list", "pinst_list"];
/// Objects that are there before a scenario starts: their serial numbers tell of an earlier life.
const RESIDENTS: &[&str] = &["default", "cluster.gnt.example"];

static UUID: LazyLock<Regex> =
    LazyLock::new(|| regex("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"));
/// The cluster's scenarios give addresses of their own another first byte.
static MAC: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b(aa(?::[0-9a-f]{2}){2})(?::[0-9a-f]{2}){3}\b"));
static JOB: LazyLock<Regex> = LazyLock::new(|| regex(r"\b([Jj]ob[ =-]|/jobs/)(\d+)\b"));
static CLOCK: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\d{4}-\d{2}-\d{2}[ T_]\d{2}[:_]\d{2}[:_]\d{2}(?:[.,]\d+)?"));
static SECONDS: LazyLock<Regex> = LazyLock::new(|| regex(r"\b\d+\.\d+ ?(s|sec|seconds)\b"));
/// Ganeti prints whole objects in some messages, with their times and serial numbers.
static PRINTED_TIME: LazyLock<Regex> = LazyLock::new(|| regex(r"\b1[67]\d{8}(?:\.\d+)?\b"));
static PRINTED_SERIAL: LazyLock<Regex> = LazyLock::new(|| regex(r"'serial_no': \d+"));
/// And sets in no order.
static ONE_OF: LazyLock<Regex> = LazyLock::new(|| regex(r"one of: ((?:[\w-]+, )+[\w-]+)"));
static TYPES: LazyLock<Regex> =
    LazyLock::new(|| regex(r"supported storage types \(((?:[\w-]+, )+[\w-]+)\)"));
static STATIC: LazyLock<Regex> =
    LazyLock::new(|| regex(r"static parameters \{((?:[^,{}]+, )+[^,{}]+)\}"));
static OWNERS: LazyLock<Regex> = LazyLock::new(|| regex(r"multiple owners: ((?:[^ ,]+, )+[^ ,]+)"));
/// A file of the queue, while it is being written.
static JOB_FILE: LazyLock<Regex> = LazyLock::new(|| regex(r"/queue/job-\d+(-\d+-\d+\.tmp)?"));
static NODE: LazyLock<Regex> = LazyLock::new(|| regex(r"node[0-9]\.gnt\.example"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of this file are regular expressions")
}

/// Where a daemon keeps its files, and what stands for it in a recording.
#[derive(Debug, Clone, Default)]
pub struct Places(pub Vec<(String, String)>);

impl Places {
    /// Replaces every place by what stands for it.
    fn apply(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (place, name)| text.replace(place.as_str(), name))
    }
}

/// Masks what a section answered.
pub fn mask(section: &Section, places: &Places, exchanges: &[Exchange]) -> Vec<Exchange> {
    let mut masker = Masker { places, ..Masker::default() };
    let mut masked = exchanges.to_vec();
    for (index, exchange) in masked.iter_mut().enumerate() {
        let step = section.steps.get(index);
        masker.any_node = step.is_some_and(|step| step.any_node);
        masker.own_words =
            JOB.captures_iter(&exchange.step).filter_map(|found| found[2].parse().ok()).collect();
        if exchange.submitted {
            masker.job(&mut exchange.body);
        } else {
            let target = exchange.step.split_whitespace().nth(2).unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            if path == "/2/jobs" || path == "/2/query/job" {
                masker.only_known_jobs(&mut exchange.body);
            }
            let key = path.rsplit('/').next().unwrap_or_default();
            let key = if key == "features" { "tags" } else { key };
            masker.value(key, &mut exchange.body);
        }
        for job in &mut exchange.jobs {
            masker.value("", job);
        }
    }
    masked
}

#[derive(Default)]
struct Masker<'a> {
    places: &'a Places,
    uuids: Vec<String>,
    macs: Vec<String>,
    jobs: Vec<u64>,
    serials: HashMap<String, u64>,
    any_node: bool,
    /// Numbers of jobs that the request itself names: they are the same on both sides.
    own_words: Vec<u64>,
}

impl Default for &Places {
    fn default() -> Self {
        static NONE: Places = Places(Vec::new());
        &NONE
    }
}

impl Masker<'_> {
    /// `key` is the member that leads here, through lists.
    fn value(&mut self, key: &str, value: &mut Value) {
        if let Some(masked) = number(key, value) {
            *value = Value::from(masked);
            return;
        }
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(_) if is_timestamp(value) => *value = Value::from("<time>"),
            Value::Array(items) => {
                // A cell of a query's row starts with its status.
                let is_cell = items.len() == 2 && items[0].is_u64() && names_a_number(key);
                for item in items.iter_mut().skip(usize::from(is_cell)) {
                    match key {
                        "jobs" => self.job_in_pair(item, 1),
                        "depends" => self.job_in_pair(item, 0),
                        _ => {}
                    }
                    self.value(key, item);
                }
                if SETS.contains(&key) && items.iter().all(Value::is_string) {
                    items.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
            }
            Value::Object(object) => {
                if let Some(rows) = named_rows(object) {
                    object.insert("data".to_owned(), rows);
                }
                self.object(object);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn object(&mut self, object: &mut Map<String, Value>) {
        if (object.contains_key("ops")
            || object.contains_key("uri")
            || object.contains_key("opstatus"))
            && let Some(id) = object.get_mut("id")
        {
            self.job(id);
        }
        // A cell of a query's row is [status, value].
        if let Some(cell) = object.get_mut("id").and_then(Value::as_array_mut)
            && let [_, id] = cell.as_mut_slice()
        {
            self.job(id);
        }
        if object.contains_key("OP_ID") {
            object.remove("debug_level");
        }
        self.serial(object);
        let mut keys: Vec<String> = object.keys().cloned().collect();
        // In one order on both sides, whatever order the daemon wrote them in.
        keys.sort();
        for key in keys {
            if let Some(member) = object.get_mut(&key) {
                self.value(&key, member);
            }
        }
    }

    /// Serial numbers of what was there before count from where this section found them.
    fn serial(&mut self, object: &mut Map<String, Value>) {
        let cell = |value: &Value| match value {
            Value::Array(cell) => cell.get(1).cloned().unwrap_or_default(),
            other => other.clone(),
        };
        let Some(serial) = object.get("serial_no").map(cell).and_then(|serial| serial.as_u64())
        else {
            return;
        };
        let name = object.get("name").map(cell);
        let masked = match name.as_ref().and_then(Value::as_str) {
            Some(name) if RESIDENTS.contains(&name) || NODE.is_match(name) => {
                let first = *self.serials.entry(name.to_owned()).or_insert(serial);
                format!("first + {}", serial.saturating_sub(first))
            }
            Some(_) => return,
            None => "<serial>".to_owned(),
        };
        object.insert("serial_no".to_owned(), Value::from(masked));
    }

    fn job_in_pair(&mut self, pair: &mut Value, index: usize) {
        if let Some(id) = pair.get_mut(index) {
            self.job(id);
        }
    }

    /// A number or a string of digits where a job id stands.
    fn job(&mut self, id: &mut Value) {
        if let Some(number) = id.as_u64() {
            *id = Value::from(self.job_name(number));
        } else if let Some(number) = id.as_str().and_then(|text| text.parse().ok()) {
            *id = Value::from(format!("{} as text", self.job_name(number)));
        }
    }

    fn job_name(&mut self, id: u64) -> String {
        format!("<job{}>", place_of(&mut self.jobs, id))
    }

    /// Lists of jobs hold whatever the daemon did before: only those of this section stay.
    fn only_known_jobs(&mut self, body: &mut Value) {
        let known = |value: Option<&Value>, jobs: &[u64]| {
            let number = match value {
                Some(Value::String(text)) => text.parse().ok(),
                Some(other) => other.as_u64(),
                None => None,
            };
            number.is_none_or(|number| jobs.contains(&number))
        };
        if let Some(items) = body.as_array_mut() {
            items.retain(|item| known(item.get("id"), &self.jobs));
            let id = |item: &Value| match &item["id"] {
                Value::String(text) => text.parse().unwrap_or(0),
                other => other.as_u64().unwrap_or(0),
            };
            items.sort_by_key(id);
        }
    }

    fn text(&mut self, text: &str) -> String {
        let text = self.places.apply(text);
        let text = UUID.replace_all(&text, |found: &Captures<'_>| {
            format!("<uuid{}>", place_of(&mut self.uuids, found[0].to_owned()))
        });
        let text = MAC.replace_all(&text, |found: &Captures<'_>| {
            format!("{}:<mac{}>", &found[1], place_of(&mut self.macs, found[0].to_owned()))
        });
        let text = JOB.replace_all(&text, |found: &Captures<'_>| {
            let id = found[2].parse::<u64>().ok().filter(|id| !self.own_words.contains(id));
            match id.and_then(|id| self.jobs.iter().position(|each| *each == id)) {
                Some(index) => format!("{}<job{}>", &found[1], index + 1),
                // Not one of this section's jobs: the scenario's own words, or a job that is not there.
                None => found[0].to_owned(),
            }
        });
        let text = CLOCK.replace_all(&text, "<time>");
        let text = SECONDS.replace_all(&text, "<seconds> $1");
        let text = PRINTED_TIME.replace_all(&text, "<time>");
        let text = PRINTED_SERIAL.replace_all(&text, "'serial_no': <serial>");
        let sorted = |words: &str| {
            let mut words: Vec<&str> = words.split(", ").collect();
            words.sort_unstable();
            words.join(", ")
        };
        let text = JOB_FILE.replace_all(&text, "/queue/<job's file>");
        let sets = [&ONE_OF, &TYPES, &STATIC, &OWNERS];
        let text = sets.iter().fold(text.into_owned(), |text, set| {
            let ordered = |found: &Captures<'_>| found[0].replace(&found[1], &sorted(&found[1]));
            set.replace_all(&text, ordered).into_owned()
        });
        if self.any_node {
            return NODE.replace_all(&text, "<node>").into_owned();
        }
        text
    }
}

/// The place of a value in the list of those seen, counted from one.
fn place_of<T: PartialEq>(seen: &mut Vec<T>, value: T) -> usize {
    if let Some(index) = seen.iter().position(|each| *each == value) {
        return index + 1;
    }
    seen.push(value);
    seen.len()
}

/// What stands for a number, if it is one that differs from run to run.
fn number(key: &str, value: &Value) -> Option<&'static str> {
    let number = value.as_f64()?;
    if number > 1e18 {
        return Some("<nanoseconds>");
    }
    if (1.6e9..4e9).contains(&number) {
        return Some("<time>");
    }
    if FIGURES.contains(&key) {
        return Some("<figure>");
    }
    if key == "watermark" {
        return Some("<watermark>");
    }
    (PORTS.contains(&key) && number > 100.0).then_some("<port>")
}

/// Whether numbers under this key may be masked.
fn names_a_number(key: &str) -> bool {
    FIGURES.contains(&key) || PORTS.contains(&key)
}

/// Whether a value is Ganeti's [seconds, microseconds].
fn is_timestamp(value: &Value) -> bool {
    let Some([seconds, microseconds]) = value.as_array().map(Vec::as_slice) else { return false };
    let seconds = seconds.as_u64().unwrap_or(0);
    (1_600_000_000..4_000_000_000).contains(&seconds)
        && microseconds.as_u64().is_some_and(|microseconds| microseconds < 1_000_000)
}

/// The rows of a query's answer with each cell under its field's name, so that masks and reports can name it. `fields`
/// stays as it is, so the order of the columns is still compared.
fn named_rows(object: &Map<String, Value>) -> Option<Value> {
    let names: Vec<&str> = object
        .get("fields")?
        .as_array()?
        .iter()
        .map(|field| field.get("name").and_then(Value::as_str))
        .collect::<Option<_>>()?;
    let mut rows = Vec::new();
    for row in object.get("data")?.as_array()? {
        let cells = row.as_array().filter(|cells| cells.len() == names.len())?;
        let mut named = Map::new();
        for (name, cell) in names.iter().zip(cells) {
            named.insert((*name).to_owned(), cell.clone());
        }
        rows.push(Value::Object(named));
    }
    Some(Value::Array(rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario;

    fn exchange(step: &str, submitted: bool, body: Value) -> Exchange {
        Exchange {
            step: step.to_owned(),
            status: 200,
            content_type: None,
            www_authenticate: None,
            body_form: None,
            body,
            submitted,
            jobs: Vec::new(),
        }
    }

    fn check(step: &str, body: Value, expected: &Value) {
        let section = scenario::parse("s", step).unwrap();
        let places = Places(vec![("/var/tmp/x".to_owned(), "/srv/gnt".to_owned())]);
        let once = mask(&section, &places, &[exchange(step, false, body)]);
        assert_eq!(once[0].body, *expected);
        assert_eq!(mask(&section, &places, &once), once, "masking twice changes nothing");
    }

    #[test]
    fn what_differs_from_run_to_run_is_named() {
        let uuid = "0f7b1c1e-2f5b-4c7e-9d50-1d5a3d1f0a11";
        check(
            "anon GET /2/nodes/node1.gnt.example",
            json!({"uuid": uuid, "group.uuid": uuid, "ctime": 1700000000.5, "mtotal": 5, "mfree": null,
                   "name": "node1.gnt.example", "serial_no": 7, "cpu_speed": 1, "tags": ["b", "a"]}),
            &json!({"uuid": "<uuid1>", "group.uuid": "<uuid1>", "ctime": "<time>", "mtotal": "<figure>", "mfree": null,
                   "name": "node1.gnt.example", "serial_no": "first + 0", "cpu_speed": 1, "tags": ["a", "b"]}),
        );
        check(
            "anon GET /2/jobs/1",
            json!({"id": 12, "ops": [{"OP_ID": "X", "debug_level": 0, "depends": [[11, ["success"]]],
                   "reason": [["gnt:opcode:x", "job=12;index=0", 1700000000123456789_u64]]}],
                   "oplog": [[[1, [1700000000, 5], "message", "in /var/tmp/x/file"]]]}),
            &json!({"id": "<job1>", "ops": [{"OP_ID": "X", "depends": [["<job2>", ["success"]]],
                   "reason": [["gnt:opcode:x", "job=<job1>;index=0", "<nanoseconds>"]]}],
                   "oplog": [[[1, "<time>", "message", "in /srv/gnt/file"]]]}),
        );
        check(
            "anon GET /2/query/node",
            json!({"data": [[[0, "aa:00:00:12:34:56"], [0, 77]]], "fields": [{"name": "m"}, {"name": "dfree"}]}),
            &json!({"data": [{"m": [0, "aa:00:00:<mac1>"], "dfree": [0, "<figure>"]}],
                   "fields": [{"name": "m"}, {"name": "dfree"}]}),
        );
    }

    #[test]
    fn sets_in_texts_have_one_order() {
        for (said, masked) in [
            (
                "Can't overwrite static parameters {'b', 'a'}",
                "Can't overwrite static parameters {'a', 'b'}",
            ),
            ("must be one of: kvm, fake", "must be one of: fake, kvm"),
            (
                "is used by multiple owners: b/nic:0, a/nic:0",
                "is used by multiple owners: a/nic:0, b/nic:0",
            ),
            (
                "Failed to write /x/queue/job-7: /x/queue/job-7-5-3.tmp: why",
                "Failed to write /x/queue/<job's file>: /x/queue/<job's file>: why",
            ),
        ] {
            check("anon GET /2/x", json!(said), &json!(masked));
        }
    }

    #[test]
    fn numbers_in_the_request_are_no_jobs_of_the_section() {
        let text = "writer PUT /2/tags?tag=x\nwriter PUT /2/jobs/5 {}";
        let section = scenario::parse("s", text).unwrap();
        let refused = json!({"message": "Method PUT is unsupported for path /2/jobs/5"});
        let run = [
            exchange("writer PUT /2/tags?tag=x", true, json!(5)),
            exchange("writer PUT /2/jobs/5", false, refused.clone()),
        ];
        assert_eq!(mask(&section, &Places::default(), &run)[1].body, refused);
    }

    #[test]
    fn lists_of_jobs_keep_those_of_the_section() {
        let text = "writer PUT /2/tags?tag=x\nanon GET /2/jobs";
        let section = scenario::parse("s", text).unwrap();
        let list = json!([{"id": "3", "uri": "/2/jobs/3"}, {"id": "5", "uri": "/2/jobs/5"}]);
        let run = [
            exchange("writer PUT /2/tags?tag=x", true, json!(5)),
            exchange("anon GET /2/jobs", false, list),
        ];
        let masked = mask(&section, &Places::default(), &run);
        assert_eq!(masked[0].body, json!("<job1>"));
        assert_eq!(masked[1].body, json!([{"id": "<job1> as text", "uri": "/2/jobs/<job1>"}]));
    }
}
