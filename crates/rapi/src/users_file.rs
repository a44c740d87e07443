//! Changes to the users file: what `rapid user` does. Comments, blank lines and lines of other users stay as they are; the
//! file is replaced as a whole, and two who change it at the same time take turns.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use argon2::{Argon2, PasswordHasher};
use rustix::fs::{FlockOperation, flock};

use crate::replace::{directory_of, replace};
use crate::users::{Fields, scheme};

/// Who may read a users file that is made here: its owner and group.
const MODE: u32 = 0o640;

/// Why the users file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    #[error("cannot access users file {0}")]
    Access(PathBuf, #[source] io::Error),
    #[error("users file {0} is not UTF-8 text")]
    NotText(PathBuf),
    #[error("user '{0}' is there already")]
    Exists(String),
    #[error("there is no user '{0}'")]
    Unknown(String),
    #[error(
        "'{0}' cannot be a user's name: it is empty, has a blank, ':' or a character that is not ASCII, or begins with '#'"
    )]
    Name(String),
    #[error("'{0}' is no option, known are read and write")]
    Option(String),
    #[error("a password cannot be empty or have characters that are not ASCII")]
    Password,
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

/// A user as the file lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// How the password is kept: `cleartext`, `ha1`, `argon2`; something else is not understood.
    pub scheme: String,
    pub options: Vec<String>,
}

/// A password as it is kept in the file: `{argon2}` and its hash.
pub fn hash_password(password: &str) -> Result<String, UsersFileError> {
    // What cannot be sent can never be right: credentials are ASCII.
    if password.is_empty() || !password.is_ascii() {
        return Err(UsersFileError::Password);
    }
    let salt: [u8; 16] = rand::random();
    let hash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| UsersFileError::Hash(error.to_string()))?;
    Ok(format!("{{argon2}}{hash}"))
}

/// Adds a user; the file is made when there is none.
pub fn add(
    path: &Path,
    name: &str,
    password: &str,
    options: &[&str],
) -> Result<(), UsersFileError> {
    let bad =
        name.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':' || !c.is_ascii());
    if bad || name.is_empty() || name.starts_with('#') {
        return Err(UsersFileError::Name(name.into()));
    }
    if let Some(option) = options.iter().find(|option| !matches!(**option, "read" | "write")) {
        return Err(UsersFileError::Option((*option).into()));
    }
    let password = hash_password(password)?;
    change(path, |text| {
        if text.lines().any(|line| is_of(line, name)) {
            return Err(UsersFileError::Exists(name.into()));
        }
        let mut text = text.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(format!("{name} {password} {}", options.join(",")).trim_end());
        text.push('\n');
        Ok(text)
    })
}

/// Gives a user another password.
pub fn set_password(path: &Path, name: &str, password: &str) -> Result<(), UsersFileError> {
    let password = hash_password(password)?;
    change(path, |text| {
        let mut found = false;
        let lines = text.split_inclusive('\n').map(|line| match fields(line) {
            Some(fields) if fields.name == name => {
                found = true;
                let line = format!("{name} {password} {}", fields.options);
                line.trim_end().to_owned() + "\n"
            }
            _ => line.to_owned(),
        });
        let text = lines.collect();
        if found { Ok(text) } else { Err(UsersFileError::Unknown(name.into())) }
    })
}

/// Takes a user out.
pub fn remove(path: &Path, name: &str) -> Result<(), UsersFileError> {
    change(path, |text| {
        let left: String = text.split_inclusive('\n').filter(|line| !is_of(line, name)).collect();
        if left.len() < text.len() { Ok(left) } else { Err(UsersFileError::Unknown(name.into())) }
    })
}

/// The users of the file, in its order; of several lines with one name the last counts.
pub fn list(path: &Path) -> Result<Vec<Listed>, UsersFileError> {
    let text = read(path)?;
    let mut users: Vec<Listed> = Vec::new();
    for fields in text.lines().filter_map(fields) {
        users.retain(|user| user.name != fields.name);
        let options = fields.options.split(',').map(str::trim).filter(|option| !option.is_empty());
        users.push(Listed {
            name: fields.name.into(),
            scheme: scheme(fields.password).map_or("invalid".into(), |(s, _)| s.to_lowercase()),
            options: options.map(str::to_owned).collect(),
        });
    }
    Ok(users)
}

fn change(
    path: &Path,
    edit: impl FnOnce(&str) -> Result<String, UsersFileError>,
) -> Result<(), UsersFileError> {
    let access = |error| UsersFileError::Access(path.into(), error);
    // A link stays a link: what it points to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let directory = File::open(directory_of(path)).map_err(access)?;
    flock(&directory, FlockOperation::LockExclusive).map_err(|error| access(error.into()))?;
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & MODE,
        Err(_) => MODE,
    };
    let before = match read(path) {
        Err(UsersFileError::Access(_, error)) if error.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        other => other?,
    };
    let after = edit(&before)?;
    replace(path, after.as_bytes(), mode).map_err(access)
}

fn read(path: &Path) -> Result<String, UsersFileError> {
    let bytes = fs::read(path).map_err(|error| UsersFileError::Access(path.into(), error))?;
    String::from_utf8(bytes).map_err(|_| UsersFileError::NotText(path.into()))
}

fn fields(line: &str) -> Option<Fields<'_>> {
    let line = line.trim();
    if line.starts_with('#') { None } else { Fields::parse(line) }
}

fn is_of(line: &str, name: &str) -> bool {
    fields(line).is_some_and(|fields| fields.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_leave_the_rest_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let before = "# who may come in\n\n  anna   {HA1}00112233445566778899aabbccddeeff  read, write\nhalf\nbob pw";
        fs::write(&path, before).unwrap();
        add(&path, "carl", "secret", &["write"]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("{before}\ncarl {{argon2}}$argon2id$v=19$")));
        assert!(text.ends_with(" write\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

        set_password(&path, "anna", "other").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# who may come in\n\nanna {argon2}$argon2id$"));
        assert!(text.contains(" read, write\nhalf\nbob pw\ncarl "));

        remove(&path, "anna").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# who may come in\n\nhalf\nbob pw\ncarl "));

        let check = |name: &str, scheme: &str, options: &[&str]| Listed {
            name: name.into(),
            scheme: scheme.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let expected = [check("bob", "cleartext", &[]), check("carl", "argon2", &["write"])];
        assert_eq!(list(&path).unwrap(), expected);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        assert!(matches!(list(&path), Err(UsersFileError::Access(..))));
        assert!(matches!(remove(&path, "a"), Err(UsersFileError::Unknown(_))));
        add(&path, "a", "pw", &[]).unwrap();
        assert!(matches!(add(&path, "a", "pw", &[]), Err(UsersFileError::Exists(_))));
        assert!(matches!(set_password(&path, "b", "pw"), Err(UsersFileError::Unknown(_))));
        for name in ["", "a b", "a:b", "#a", "\u{e4}"] {
            assert!(matches!(add(&path, name, "pw", &[]), Err(UsersFileError::Name(_))), "{name}");
        }
        assert!(matches!(add(&path, "b", "\u{e4}", &[]), Err(UsersFileError::Password)));
        assert!(matches!(add(&path, "b", "pw", &["admin"]), Err(UsersFileError::Option(_))));
        fs::write(&path, b"a \xff").unwrap();
        assert!(matches!(remove(&path, "a"), Err(UsersFileError::NotText(_))));
    }
}
