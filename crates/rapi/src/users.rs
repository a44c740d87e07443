//! Who may come in: the users file, and the credentials of a request checked against it.
//!
//! The file is looked at before each use and read again when it changed, so a change counts from the next request on.
//! What always holds: a file that is missing lets nobody in, a file that is not text leaves those who were in before, and a
//! comparison takes as long for a wrong password, and for a name that is not there, as for a right one.
//! Changing the file is in [`crate::users_file`].

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::error::HttpError;
use crate::limits;

/// The realm that clients are asked to authenticate for; part of `{HA1}` passwords.
pub const REALM: &str = "Ganeti Remote API";

/// A time after the file's last change in which a second change may look the same.
const CLOCK_TICK: Duration = Duration::from_millis(50);

/// Someone who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// Whether they have the option `read`.
    pub read: bool,
    /// Whether they have the option `write`.
    pub write: bool,
}

/// A name and a password, as a request brings them.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    name: String,
    password: String,
}

impl Credentials {
    /// Reads an `Authorization` header. Ganeti: only `Basic` with ASCII in it (3.0.2, `http/auth.py`).
    pub fn parse(header: &[u8]) -> Result<Self, HttpError> {
        let unauthorized = || HttpError::plain(401);
        let header = str::from_utf8(header).map_err(|_| unauthorized())?;
        let mut words = header.split_whitespace();
        let scheme = words.next().ok_or_else(unauthorized)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(unauthorized());
        }
        let data = words
            .next()
            .ok_or_else(|| HttpError::bad_request("Basic authentication requires credentials"))?;
        let text = base64(data.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.filter(|text| text.is_ascii()).ok_or_else(unauthorized)?;
        let (name, password) = text.split_once(':').ok_or_else(unauthorized)?;
        Ok(Self { name: name.to_owned(), password: password.to_owned() })
    }
}

/// Python's `base64.b64decode`: what is not of the alphabet is skipped, and what follows the padding is not read.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut quad, mut held, mut pads) = (0, 0u8, 0);
    for &byte in text {
        let bits = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                pads += 1;
                if quad >= 2 && quad + pads >= 4 {
                    return Some(out);
                }
                continue;
            }
            _ => continue,
        };
        pads = 0;
        match quad {
            0 => {}
            1 => out.push(held << 2 | bits >> 4),
            2 => out.push(held << 4 | bits >> 2),
            _ => out.push(held << 6 | bits),
        }
        held = bits;
        quad = (quad + 1) % 4;
    }
    (quad == 0).then_some(out)
}

/// The users of a server.
pub struct Users {
    path: Option<PathBuf>,
    current: RwLock<Arc<Set>>,
    /// Held while the file is read.
    reading: Mutex<()>,
    /// Bounds the passwords that are hashed at the same time.
    hashing: Semaphore,
    key: Key,
}

impl Users {
    /// The users of that file; nobody without one.
    pub fn new(path: Option<PathBuf>) -> Self {
        let users = Self {
            path,
            current: RwLock::new(Arc::new(Set::default())),
            reading: Mutex::new(()),
            hashing: Semaphore::new(limits::HASHING),
            key: Key(rand::random()),
        };
        users.reload();
        users
    }

    /// Reads the file again.
    pub fn reload(&self) {
        self.read(true);
    }

    /// Who the credentials stand for; `None` when they are wrong.
    pub async fn check(&self, credentials: &Credentials) -> Option<User> {
        let set = self.current();
        let entry = set.entries.get(&credentials.name);
        let given = self.key.digest(credentials.password.as_bytes());
        let right = match entry.map(|entry| &entry.secret) {
            Some(Secret::Clear(password)) => given.ct_eq(password),
            Some(Secret::Ha1(expected)) => ha1(credentials).ct_eq(expected),
            Some(Secret::Argon2(hash)) => {
                self.check_argon2(&set, hash, credentials, given, true).await
            }
            Some(Secret::Never) | None => match &set.decoy {
                Some(hash) => {
                    self.check_argon2(&set, hash, credentials, given, false).await;
                    false
                }
                None => {
                    given.ct_eq(&[0; 20]); // as long as for a user
                    false
                }
            },
        };
        entry.filter(|_| right).map(|entry| User {
            name: credentials.name.clone(),
            read: entry.read,
            write: entry.write,
        })
    }

    /// Hashes the password, unless the verdict on it is known. `own` is false when the hash is not the user's.
    async fn check_argon2(
        &self,
        set: &Arc<Set>,
        hash: &Arc<Argon2Hash>,
        credentials: &Credentials,
        given: Tag,
        own: bool,
    ) -> bool {
        if own && hash.is_known_right(&given) {
            return true;
        }
        let attempt =
            self.key.digest(format!("{}:{}", credentials.name, credentials.password).as_bytes());
        if set.is_known_wrong(&attempt) {
            return false;
        }
        let Ok(_turn) = self.hashing.acquire().await else { return false };
        // Whoever had the turn before may have tried the same.
        if own && hash.is_known_right(&given) {
            return true;
        }
        let (worker, password) = (hash.clone(), credentials.password.clone());
        let hashed = tokio::task::spawn_blocking(move || worker.is_hash_of(password.as_bytes()));
        let right = hashed.await.unwrap_or(false) && own;
        if right {
            hash.right.get_or_init(|| given);
        } else {
            set.remember_wrong(attempt);
        }
        right
    }

    /// The users as the file has them now.
    fn current(&self) -> Arc<Set> {
        // One look at a file's state, in the kernel's memory: cheaper than handing it to another thread.
        let stamp = self
            .path
            .as_deref()
            .and_then(|path| std::fs::metadata(path).ok())
            .map(|m| Stamp::of(&m));
        let set = self.loaded();
        if set.stamp == stamp && !set.racy {
            return set;
        }
        self.read(false);
        self.loaded()
    }

    fn loaded(&self) -> Arc<Set> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self, asked: bool) {
        let Some(path) = &self.path else { return };
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.loaded();
        let set = match read_file(path) {
            Ok(read) if !asked && before.text == read.text => {
                // Nothing but the file's times changed.
                Arc::new(Set { stamp: Some(read.stamp), racy: read.racy, ..before.again() })
            }
            Ok(read) => match Set::parse(&read.text, &self.key, &before) {
                Ok(mut set) => {
                    let (file, users) = (path.display(), set.entries.len());
                    tracing::info!("read {users} users from {file}");
                    (set.stamp, set.racy, set.text) = (Some(read.stamp), read.racy, read.text);
                    Arc::new(set)
                }
                Err(error) => {
                    let file = path.display();
                    tracing::error!("users file {file}: {error}; the users stay as they were");
                    Arc::new(Set { stamp: Some(read.stamp), racy: read.racy, ..before.again() })
                }
            },
            Err(error) => {
                if asked || before.stamp.is_some() || !before.entries.is_empty() {
                    let file = path.display();
                    tracing::warn!("cannot read users file {file}: {error}; nobody can log in");
                }
                let stamp = std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
                Arc::new(Set { stamp, ..Set::default() })
            }
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = set;
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that was read.
struct ReadFile {
    text: Vec<u8>,
    stamp: Stamp,
    /// Whether it was written so shortly before that one more change might not show in its times.
    racy: bool,
}

fn read_file(path: &Path) -> io::Result<ReadFile> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > limits::USERS_BYTES {
        return Err(io::Error::other(format!("it has {} bytes", metadata.len())));
    }
    let mut text = Vec::new();
    Read::by_ref(&mut file).take(limits::USERS_BYTES).read_to_end(&mut text)?;
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    let racy = age.is_none_or(|age| age < CLOCK_TICK);
    Ok(ReadFile { text, stamp: Stamp::of(&metadata), racy })
}

/// The users of one state of the file.
#[derive(Default)]
struct Set {
    entries: HashMap<String, Entry>,
    /// A hash that is computed for names that are not there, so that they take as long.
    decoy: Option<Arc<Argon2Hash>>,
    /// Attempts that were wrong.
    wrong: Mutex<HashSet<Tag>>,
    text: Vec<u8>,
    stamp: Option<Stamp>,
    racy: bool,
}

#[derive(Clone)]
struct Entry {
    secret: Secret,
    read: bool,
    write: bool,
}

/// What a password is compared with.
#[derive(Clone)]
enum Secret {
    /// The keyed digest of the password itself.
    Clear(Tag),
    /// MD5 of `user:realm:password`.
    Ha1([u8; 16]),
    Argon2(Arc<Argon2Hash>),
    /// A scheme that is not known: nothing is right.
    Never,
}

/// A hashed password, and the digest of the right one once it was seen.
struct Argon2Hash {
    phc: String,
    right: OnceLock<Tag>,
}

impl Argon2Hash {
    fn is_known_right(&self, given: &Tag) -> bool {
        self.right.get().is_some_and(|right| given.ct_eq(right))
    }

    fn is_hash_of(&self, password: &[u8]) -> bool {
        PasswordHash::new(&self.phc)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
    }
}

impl Set {
    /// Reads the text of a users file. Verdicts on passwords that did not change are kept.
    fn parse(text: &[u8], key: &Key, before: &Self) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|error| error.to_string())?;
        let mut set = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some(Fields { name, password, options }) = Fields::parse(line) else {
                tracing::warn!("users file, line {}: less than two fields, ignored", at + 1);
                continue;
            };
            let secret = secret(name, password, key, before);
            if let Secret::Argon2(hash) = &secret {
                set.decoy.get_or_insert_with(|| hash.clone());
            }
            let has = |option| options.split(',').any(|part| part.trim() == option);
            let entry = Entry { secret, read: has("read"), write: has("write") };
            set.entries.insert(name.to_owned(), entry);
        }
        Ok(set)
    }

    /// The same users.
    fn again(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            decoy: self.decoy.clone(),
            wrong: Mutex::default(),
            text: self.text.clone(),
            stamp: self.stamp,
            racy: self.racy,
        }
    }

    fn is_known_wrong(&self, attempt: &Tag) -> bool {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).contains(attempt)
    }

    fn remember_wrong(&self, attempt: Tag) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= limits::WRONG_PASSWORDS {
            wrong.clear();
        }
        wrong.insert(attempt);
    }
}

/// The fields of a line of the users file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) name: &'a str,
    pub(crate) password: &'a str,
    /// The rest of the line.
    pub(crate) options: &'a str,
}

impl<'a> Fields<'a> {
    /// Takes a line apart; `None` when it has less than two fields.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let word = |text: &'a str| {
            let text = text.trim_start();
            text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
        };
        let (name, rest) = word(line);
        let (password, rest) = word(rest);
        (!password.is_empty()).then(|| Self { name, password, options: rest.trim() })
    }
}

/// The scheme of a password, in upper case, and what follows it; `None` when the braces hold nothing or do not close.
pub(crate) fn scheme(password: &str) -> Option<(String, &str)> {
    let Some(rest) = password.strip_prefix('{') else {
        return Some(("CLEARTEXT".into(), password));
    };
    let (scheme, rest) = rest.split_once('}')?;
    (!scheme.is_empty()).then(|| (scheme.to_uppercase(), rest))
}

fn secret(name: &str, password: &str, key: &Key, before: &Set) -> Secret {
    let Some((scheme, rest)) = scheme(password) else {
        tracing::warn!("invalid scheme in password for user '{name}'");
        return Secret::Never;
    };
    match scheme.as_str() {
        "CLEARTEXT" => Secret::Clear(key.digest(rest.as_bytes())),
        "HA1" => match hex(rest) {
            Some(digest) => Secret::Ha1(digest),
            None => {
                tracing::warn!(
                    "the {{HA1}} password of user '{name}' is not 32 hexadecimal digits"
                );
                Secret::Never
            }
        },
        "ARGON2" => match before.entries.get(name).map(|entry| &entry.secret) {
            Some(Secret::Argon2(hash)) if hash.phc == rest => Secret::Argon2(hash.clone()),
            _ if is_argon2(rest) => {
                Secret::Argon2(Arc::new(Argon2Hash { phc: rest.into(), right: OnceLock::new() }))
            }
            _ => {
                tracing::warn!("the {{argon2}} password of user '{name}' cannot be used");
                Secret::Never
            }
        },
        _ => {
            tracing::warn!("unknown scheme '{{{scheme}}}' in password for user '{name}'");
            Secret::Never
        }
    }
}

/// Whether that is an Argon2 hash which may be computed here.
fn is_argon2(phc: &str) -> bool {
    PasswordHash::new(phc).is_ok_and(|hash| {
        hash.algorithm.as_str().starts_with("argon2")
            && argon2::Params::try_from(&hash)
                .is_ok_and(|params| params.m_cost() <= limits::ARGON2_KIB)
    })
}

/// MD5 of `user:realm:password`: Ganeti's `{HA1}`, after RFC 2617.
fn ha1(credentials: &Credentials) -> [u8; 16] {
    let mut hasher = Md5::new();
    for part in [&credentials.name, ":", REALM, ":", &credentials.password] {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

fn hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// A keyed digest: compared instead of the password, it does not even show a length.
type Tag = [u8; 20];

/// The key of this process.
struct Key([u8; 32]);

impl Key {
    fn digest(&self, text: &[u8]) -> Tag {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(text);
        mac.finalize().into_bytes().into()
    }
}

/// Equality in constant time.
trait SameAs {
    fn ct_eq(&self, other: &Self) -> bool;
}

impl<const N: usize> SameAs for [u8; N] {
    fn ct_eq(&self, other: &Self) -> bool {
        ConstantTimeEq::ct_eq(self.as_slice(), other.as_slice()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users_file::hash_password;
    use proptest::prelude::*;

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.into(), password: password.into() }
    }

    #[tokio::test]
    async fn every_scheme_lets_the_right_password_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let argon2 = hash_password("secret").unwrap();
        // MD5 of `ha1:Ganeti Remote API:secret`, in mixed case.
        let ha1 = "{ha1}E348D83511AE3A86c19bc46d71e8b6cf";
        let lines = [
            "# comment",
            "  clear secret read,write",
            "braces {ClearText}{secret} read, other ,x",
            &format!("ha1 {ha1} write"),
            &format!("argon2 {argon2}\twrite"),
            "unknown {crypt}secret write",
            "empty {}secret write",
            "open {secret write",
            "bad {argon2}secret write",
            "half",
            "twice other write",
            "twice secret",
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let users = Users::new(Some(path));
        let check = async |name: &str, password: &str, expected: Option<(bool, bool)>| {
            // The second time, what was hashed is known.
            for _ in 0..2 {
                let user = users.check(&credentials(name, password)).await;
                let options = user.map(|user| (user.read, user.write));
                assert_eq!(options, expected, "{name} {password}");
            }
        };
        check("clear", "secret", Some((true, true))).await;
        check("clear", "Secret", None).await;
        check("clear", "", None).await;
        check("braces", "{secret}", Some((true, false))).await;
        check("ha1", "secret", Some((false, true))).await;
        check("ha1", "secret2", None).await;
        check("argon2", "secret", Some((false, true))).await;
        check("argon2", "secret2", None).await;
        check("argon2", &argon2, None).await;
        for name in ["unknown", "empty", "open", "bad", "half", "nobody", "# comment", "#"] {
            check(name, "secret", None).await;
        }
        check("twice", "secret", Some((false, false))).await;
        check("twice", "other", None).await;
    }

    #[tokio::test]
    async fn a_verdict_is_kept_as_long_as_the_password() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let argon2 = hash_password("secret").unwrap();
        std::fs::write(&path, format!("a {argon2} write\n")).unwrap();
        let users = Users::new(Some(path.clone()));
        let known = || match &users.loaded().entries["a"].secret {
            Secret::Argon2(hash) => hash.right.get().is_some(),
            _ => panic!("another scheme"),
        };
        assert!(!known());
        assert!(users.check(&credentials("a", "wrong")).await.is_none());
        assert!(!known());
        assert!(users.check(&credentials("a", "secret")).await.is_some());
        assert!(known());
        std::fs::write(&path, format!("a {argon2} read\n")).unwrap();
        users.reload();
        assert!(known());
        assert!(users.check(&credentials("a", "secret")).await.unwrap().read);
        std::fs::write(&path, format!("a {} read\n", hash_password("secret").unwrap())).unwrap();
        users.reload();
        assert!(!known());
        assert!(users.check(&credentials("a", "secret")).await.is_some());
    }

    #[test]
    fn authorization_headers() {
        let check = |header: &str, expected: Result<(&str, &str), u16>| {
            let parsed = Credentials::parse(header.as_bytes());
            let parsed = parsed.map_err(|error| error.status);
            let expected = expected.map(|(name, password)| credentials(name, password));
            assert!(parsed == expected, "{header}");
        };
        check("Basic d3JpdGVyOnB3", Ok(("writer", "pw")));
        check("  bAsIc   d3JpdGVyOnB3 more", Ok(("writer", "pw")));
        check("Basic cGxhaW46cHc=", Ok(("plain", "pw")));
        check("Basic cGxhaW46cHc=junk", Ok(("plain", "pw")));
        check("Basic cGxh-aW46cHc=", Ok(("plain", "pw")));
        check("Basic cGxhaW46cHc", Err(401));
        check("Basic YTpiOmM=", Ok(("a", "b:c")));
        check("Basic Og==", Ok(("", "")));
        check("Basic YWI=", Err(401));
        check("Basic w6Q6YQ==", Err(401));
        check("Basic", Err(400));
        check("", Err(401));
        check("Digest d3JpdGVyOnB3", Err(401));
    }

    proptest! {
        #[test]
        fn no_file_and_no_header_is_too_strange(text: Vec<u8>, name: String, password: String) {
            let key = Key([7; 32]);
            let _ = Credentials::parse(&text);
            let _ = Set::parse(&text, &key, &Set::default());
            let line = format!("{name} {password} write\n# {name}\n{password}{name}");
            let set = Set::parse(line.as_bytes(), &key, &Set::default()).unwrap();
            prop_assert!(set.entries.len() <= line.lines().count());
        }
    }
}
