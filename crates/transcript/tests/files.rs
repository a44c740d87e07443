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

#[test]
fn accepted_differences_are_documented() {
    let document = home().join("../../docs/compatibility.md");
    let document = std::fs::read_to_string(document).unwrap();
    for row in report::load_accepted(&home().join("differences.json")).unwrap() {
        let one_line = document.lines().any(|line| line.contains(&row.documented));
        assert!(one_line, "docs/compatibility.md does not say: {}", row.documented);
    }
}
