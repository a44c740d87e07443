//! Operating system definitions by Ganeti's OS interface (versions 10, 15, 20): directories with scripts. Here they are
//! found and judged; running their scripts is in `os/scripts.rs`. The texts are Ganeti's (3.0, `backend.py`).

pub(crate) mod scripts;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::OsInfo;

/// The versions that are spoken.
const API_VERSIONS: [i64; 3] = [10, 15, 20];

/// A definition that is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) variants: Vec<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) api_versions: Vec<i64>,
    pub(crate) has_create: bool,
    /// Its create script must not run on the node itself.
    pub(crate) untrusted: bool,
}

impl Definition {
    /// The highest version that both sides speak.
    pub(crate) fn api_version(&self) -> i64 {
        let known = self.api_versions.iter().filter(|version| API_VERSIONS.contains(version));
        known.max().copied().unwrap_or(API_VERSIONS[0])
    }
}

/// Cuts an operating system's full name into the definition's and the variant's.
pub(crate) fn split_name(os: &str) -> (&str, &str) {
    os.split_once('+').unwrap_or((os, ""))
}

/// Every definition in every directory, good or bad, in the order of the search path.
pub(crate) fn list(search_path: &[PathBuf]) -> Vec<OsInfo> {
    let mut found = Vec::new();
    for dir in search_path {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let text = path.display().to_string();
            found.push(match read(&name, std::slice::from_ref(dir)) {
                Ok(os) => OsInfo {
                    name,
                    path: text,
                    valid: true,
                    diagnose: String::new(),
                    variants: os.variants,
                    parameters: os.parameters,
                    api_versions: os.api_versions,
                    trusted: !os.untrusted,
                },
                Err(diagnose) => OsInfo {
                    name,
                    path: text,
                    valid: false,
                    diagnose,
                    variants: Vec::new(),
                    parameters: Vec::new(),
                    api_versions: Vec::new(),
                    trusted: true,
                },
            });
        }
    }
    found
}

/// Reads one definition; the error says what is wrong with it.
pub(crate) fn read(name: &str, search_path: &[PathBuf]) -> Result<Definition, String> {
    let found = search_path.iter().map(|dir| dir.join(name)).find(|path| path.is_dir());
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let path = found
        .filter(|_| plain)
        .ok_or_else(|| format!("Directory for OS {name} not found in search path"))?;
    let at = path.display();
    let api_versions = read_api_versions(&path)?;
    if !api_versions.iter().any(|version| API_VERSIONS.contains(version)) {
        return Err(format!(
            "API version mismatch for path '{at}': found {}, want {}.",
            python_list(&api_versions, ('[', ']')),
            python_list(&API_VERSIONS, ('{', '}'))
        ));
    }
    let highest = api_versions.iter().max().copied().unwrap_or(0);

    let mut scripts = vec!["export", "import", "rename"];
    if highest >= 20 {
        scripts.push("verify");
    }
    for script in scripts {
        check_file(&path, script, Need::Required)?;
    }
    let has_create = check_file(&path, "create", Need::Optional)?;
    let untrusted = check_file(&path, "create_untrusted", Need::Optional)?;
    let has_variants = highest >= 15 && check_file(&path, "variants.list", Need::Optional)?;
    if highest >= 20 {
        check_file(&path, "parameters.list", Need::Required)?;
    }
    if !has_create && !untrusted {
        return Err(format!("A create script (trusted or untrusted) under path '{at}' must exist"));
    }

    let mut variants = Vec::new();
    if has_variants {
        let file = path.join("variants.list");
        let text = fs::read_to_string(&file).map_err(|error| {
            let text = reason(&error);
            format!("Error while reading the OS variants file at {}: {text}", file.display())
        })?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        variants = lines.map(str::to_owned).collect();
    }
    let mut parameters = Vec::new();
    if highest >= 20 {
        let file = path.join("parameters.list");
        let text = fs::read_to_string(&file).map_err(|error| {
            let text = reason(&error);
            format!("Error while reading the OS parameters file at {}: {text}", file.display())
        })?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, help) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            parameters.push((name.to_owned(), help.trim_start().to_owned()));
        }
    }
    let name = name.to_owned();
    Ok(Definition { name, path, variants, parameters, api_versions, has_create, untrusted })
}

fn read_api_versions(path: &Path) -> Result<Vec<i64>, String> {
    let (at, name) = (path.display(), "ganeti_api_version");
    let file = path.join(name);
    let meta = file.metadata().map_err(|error| {
        format!("Required file '{name}' not found under path {at}: {}", reason(&error))
    })?;
    if !meta.is_file() {
        return Err(format!("File '{name}' in {at} is not a regular file"));
    }
    let text = fs::read_to_string(&file).map_err(|error| {
        let text = reason(&error);
        format!("Error while reading the API version file at {}: {text}", file.display())
    })?;
    let number = |line: &str| {
        line.trim().parse().map_err(|_| {
            let line = line.trim();
            format!("API version(s) can't be converted to integer: invalid literal for int() with base 10: '{line}'")
        })
    };
    text.lines().map(number).collect()
}

/// Whether a file of a definition may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// Checks one file of a definition and answers whether it is there. All but lists are scripts.
fn check_file(dir: &Path, name: &str, need: Need) -> Result<bool, String> {
    let at = dir.display();
    let meta = match dir.join(name).metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound && need == Need::Optional => {
            return Ok(false);
        }
        Err(error) => {
            let why = reason(&error);
            return Err(format!("File '{name}' under path '{at}' is missing ({why})"));
        }
    };
    if !meta.is_file() {
        return Err(format!("File '{name}' under path '{at}' is not a regular file"));
    }
    if !name.ends_with(".list") && meta.permissions().mode() & 0o100 == 0 {
        return Err(format!("File '{name}' under path '{at}' is not executable"));
    }
    Ok(true)
}

/// The system's words for an error, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Numbers as Python prints a list or set of them.
fn python_list(numbers: &[i64], (open, close): (char, char)) -> String {
    let sorted: BTreeSet<i64> = numbers.iter().copied().collect();
    let texts: Vec<String> = match open {
        '{' => sorted.iter().map(i64::to_string).collect(),
        _ => numbers.iter().map(i64::to_string).collect(),
    };
    format!("{open}{}{close}", texts.join(", "))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes a definition out of names and contents; scripts are those that begin with `#!`.
    pub(crate) fn define(dir: &Path, name: &str, files: &[(&str, &str)]) {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    const SH: &str = "#!/bin/sh\n";

    #[test]
    fn definitions_are_read() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("ganeti_api_version", "20\n15\n"),
            ("create", SH),
            ("export", SH),
            ("import", SH),
            ("rename", SH),
            ("verify", SH),
            ("variants.list", "# which\nsmall\n\nlarge\n"),
            ("parameters.list", "dhcp whether to ask\nsize\n"),
        ];
        define(root.path(), "good", &files);
        let os = read("good", &[root.path().to_owned()]).unwrap();
        assert_eq!(os.variants, ["small", "large"]);
        let parameters: Vec<_> =
            os.parameters.iter().map(|(name, help)| (name.as_str(), help.as_str())).collect();
        assert_eq!(parameters, [("dhcp", "whether to ask"), ("size", "")]);
        assert_eq!((os.api_version(), os.has_create, os.untrusted), (20, true, false));
        assert_eq!(split_name("good+small"), ("good", "small"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let root = tempfile::tempdir().unwrap();
        let check = |files: &[(&str, &str)], expected: &str| {
            let dir = tempfile::tempdir_in(root.path()).unwrap();
            define(dir.path(), "os", files);
            let error = read("os", &[dir.path().to_owned()]).unwrap_err();
            let path = dir.path().join("os").display().to_string();
            assert_eq!(error.replace(&path, "/os"), expected);
        };
        check(
            &[],
            "Required file 'ganeti_api_version' not found under path /os: No such file or directory",
        );
        check(
            &[("ganeti_api_version", "5\n")],
            "API version mismatch for path '/os': found [5], want {10, 15, 20}.",
        );
        check(
            &[("ganeti_api_version", "x\n")],
            "API version(s) can't be converted to integer: invalid literal for int() with base 10: 'x'",
        );
        let version = ("ganeti_api_version", "10\n");
        check(&[version], "File 'export' under path '/os' is missing (No such file or directory)");
        check(&[version, ("export", "")], "File 'export' under path '/os' is not executable");
        check(
            &[version, ("export", SH), ("import", SH), ("rename", SH)],
            "A create script (trusted or untrusted) under path '/os' must exist",
        );
        let error = read("none", &[root.path().to_owned()]).unwrap_err();
        assert_eq!(error, "Directory for OS none not found in search path");
    }

    #[test]
    fn the_list_has_good_and_bad() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("ganeti_api_version", "10"),
            ("create", SH),
            ("export", SH),
            ("import", SH),
            ("rename", SH),
        ];
        define(root.path(), "b", &files);
        define(root.path(), "a", &[]);
        define(root.path(), ".hidden", &[]);
        let found = list(&[root.path().to_owned(), root.path().join("nowhere")]);
        let short: Vec<_> = found.iter().map(|os| (os.name.as_str(), os.valid)).collect();
        assert_eq!(short, [("a", false), ("b", true)]);
    }
}
