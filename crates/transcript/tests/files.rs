//! The committed files fit together: each scenario has its recording, and each accepted difference its line in the
//! documents.

use std::path::PathBuf;

use transcript::{recording, report, scenario};

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_scenario_is_recorded() {
    for section in scenario::load(&home().join("scenarios")).unwrap() {
        let file = recording::path(&home().join("recorded"), &section.name);
        let recorded = recording::load(&file).unwrap();
        let steps: Vec<_> = section.steps.iter().map(|step| step.name.as_str()).collect();
        let exchanges: Vec<_> = recorded.exchanges.iter().map(|each| each.step.as_str()).collect();
        let other = steps.iter().zip(&exchanges).find(|(step, exchange)| step != exchange);
        assert_eq!(
            (other, exchanges.len()),
            (None, steps.len()),
            "{}: record it again",
            section.name
        );
        assert!(recorded.header.daemon.contains("3.0.2"), "{}", section.name);
        assert!(
            recorded.exchanges.iter().all(|each| each.status > 0),
            "{}: an answer each",
            section.name
        );
    }
}

#[test]
fn recordings_know_no_place_of_the_machine_they_were_made_on() {
    for section in scenario::load(&home().join("scenarios")).unwrap() {
        let file = recording::path(&home().join("recorded"), &section.name);
        let text = std::fs::read_to_string(file).unwrap();
        for place in ["/var/tmp", "/tmp/"] {
            assert!(!text.contains(place), "{}: {place}", section.name);
        }
    }
}

/// Of whom docs/compatibility.md says what these words say: the marker that follows them in their item, or the one of the
/// heading above.
fn documented_of(document: &str, words: &str) -> Option<String> {
    let at = document.find(words)?;
    let (before, from) = document.split_at(at);
    let mut rest = from.lines();
    let item = rest.next().into_iter().chain(rest.take_while(|line| line.starts_with("  ")));
    let heading = before.lines().rev().find(|line| line.starts_with("## "));
    let markers = ["door", "embedded", "luxi", "noise"];
    let marker = |line: &str| {
        let found =
            markers.iter().filter_map(|name| Some((line.find(&format!("({name})"))?, *name)));
        found.min().map(|(_, name)| name.to_owned())
    };
    item.chain(heading).find_map(marker)
}

#[test]
fn accepted_differences_are_documented() {
    let document = home().join("../../docs/compatibility.md");
    let document = std::fs::read_to_string(document).unwrap();
    for row in report::load_accepted(&home().join("differences.json")).unwrap() {
        let holds = format!("{:?}", row.holds).to_lowercase();
        let said = documented_of(&document, &row.documented);
        assert_eq!(said, Some(holds), "docs/compatibility.md on: {}", row.documented);
    }
}
