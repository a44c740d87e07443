//! `cargo xtask deps`: which crate of ours depends on which, and the licences of those that are not ours, read from
//! `cargo metadata`.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::machine::cargo;

/// Who may import whom. Nothing that is not in this picture is allowed.
const PICTURE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("placement", &["model"]),
    ("node", &["model"]),
    ("rapi", &["model"]),
    ("embedded", &["model", "placement", "node"]),
    ("luxi", &["model"]),
    ("rapid", &["model", "placement", "node", "embedded", "rapi", "luxi"]),
    // Judges a daemon by recordings of another, so it knows neither.
    ("transcript", &[]),
    ("xtask", &["model", "placement", "node", "embedded", "rapi", "luxi", "transcript"]),
];

/// Licences that let everybody use, change and pass on what we build.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Licences with a condition that is fine where the whole is only linked: changes of their own files are published.
const LICENCES_OF: &[(&str, &str)] =
    &[("imbl", "MPL-2.0+"), ("imbl-sized-chunks", "MPL-2.0+"), ("bitmaps", "MPL-2.0+")];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: HashSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
}

/// Reads the picture and the licences, and names everything that does not fit.
pub(crate) fn run() -> Result<()> {
    let said = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .context("cannot run cargo metadata")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "cargo metadata: {text}");
    let metadata: Metadata = serde_json::from_slice(&said.stdout).context("cargo metadata")?;
    let wrong = problems(&metadata);
    if !wrong.is_empty() {
        bail!("dependencies:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn problems(metadata: &Metadata) -> Vec<String> {
    let picture: BTreeMap<&str, &[&str]> = PICTURE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        if metadata.workspace_members.contains(&package.id) {
            let Some(allowed) = picture.get(package.name.as_str()) else {
                wrong.push(format!("{} is not in the picture", package.name));
                continue;
            };
            let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
            let strangers = ours.filter(|dependency| !allowed.contains(&dependency.name.as_str()));
            wrong.extend(
                strangers.map(|dependency| {
                    format!("{} may not import {}", package.name, dependency.name)
                }),
            );
        } else {
            let licence = package.license.as_deref().unwrap_or("no licence");
            let known = |one: &str| {
                LICENCES.contains(&one) || LICENCES_OF.contains(&(package.name.as_str(), one))
            };
            if !is_fine(licence, &known) {
                wrong.push(format!("the licence of {} is {licence}", package.name));
            }
        }
    }
    wrong
}

/// Whether one of the choices that a licence expression leaves is allowed in all its parts.
fn is_fine(expression: &str, known: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, known) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, known: &dyn Fn(&str) -> bool) -> bool {
    let mut fine = both(words, at, known);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        fine |= both(words, at, known);
    }
    fine
}

fn both(words: &[&str], at: &mut usize, known: &dyn Fn(&str) -> bool) -> bool {
    let mut fine = one(words, at, known);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        fine &= one(words, at, known);
    }
    fine
}

fn one(words: &[&str], at: &mut usize, known: &dyn Fn(&str) -> bool) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let fine = either(words, at, known);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return fine && closed;
    }
    // An exception only gives more rights.
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    known(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, fine: bool) {
        let known = |one: &str| LICENCES.contains(&one);
        assert_eq!(is_fine(expression, &known), fine, "{expression}");
    }

    #[test]
    fn licence_expressions() {
        check("MIT", true);
        check("MIT OR Apache-2.0", true);
        check("MIT/Apache-2.0", true);
        check("GPL-3.0", false);
        check("GPL-3.0 OR MIT", true);
        check("GPL-3.0 AND MIT", false);
        check("(MIT OR GPL-3.0) AND Unicode-3.0", true);
        check("(MIT OR GPL-3.0) AND GPL-2.0", false);
        check("Apache-2.0 WITH LLVM-exception OR MIT", true);
        check("Apache-2.0 WITH LLVM-exception AND GPL-2.0", false);
        check("(MIT", false);
        check("", false);
    }

    #[test]
    fn an_edge_that_is_not_in_the_picture_is_named() {
        let package = |name: &str, imports: &str| Package {
            id: name.to_owned(),
            name: name.to_owned(),
            license: None,
            dependencies: vec![Dependency { name: imports.to_owned(), path: Some(String::new()) }],
        };
        let packages =
            vec![package("rapi", "model"), package("rapi", "node"), package("new", "model")];
        let workspace_members = packages.iter().map(|package| package.id.clone()).collect();
        let wrong = problems(&Metadata { packages, workspace_members });
        assert_eq!(wrong, ["rapi may not import node", "new is not in the picture"]);
    }
}
