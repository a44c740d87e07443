//! The small commands: users, the domain secret, operating systems, the console and the screen.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rapi::users_file;

use crate::args::{Console, OsCommand, RenewCrypto, Screenshot, UserCommand};

/// `rapid user …`
#[expect(clippy::print_stdout, reason = "a command's answer")]
pub(crate) fn user(command: &UserCommand) -> Result<()> {
    match command {
        UserCommand::Add { file, name, options, password_stdin } => {
            let password = password(*password_stdin)?;
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            users_file::add(&file.path(), name, &password, &options)?;
            println!("added {name} to {}", file.path().display());
        }
        UserCommand::Passwd { file, name, password_stdin } => {
            let password = password(*password_stdin)?;
            users_file::set_password(&file.path(), name, &password)?;
            println!("changed the password of {name}");
        }
        UserCommand::List { file } => {
            for user in users_file::list(&file.path())? {
                println!("{:<24} {:<10} {}", user.name, user.scheme, user.options.join(","));
            }
        }
        UserCommand::Remove { file, name } => {
            users_file::remove(&file.path(), name)?;
            println!("removed {name}");
        }
    }
    Ok(())
}

/// A password: the first line of standard input, or asked for twice without showing it.
fn password(from_stdin: bool) -> Result<String> {
    if from_stdin {
        return line();
    }
    let stdin = std::io::stdin();
    if !rustix::termios::isatty(&stdin) {
        bail!("no terminal to ask for the password at; use --password-stdin");
    }
    let shown = rustix::termios::tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
    rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &hidden)?;
    let asked = ask("Password: ").and_then(|first| Ok((first, ask("Again: ")?)));
    rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &shown)?;
    let (first, again) = asked?;
    if first != again {
        bail!("the passwords differ");
    }
    Ok(first)
}

fn ask(prompt: &str) -> Result<String> {
    let mut terminal = std::io::stderr();
    write!(terminal, "{prompt}")?;
    terminal.flush()?;
    let answer = line();
    writeln!(terminal)?;
    answer
}

fn line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// `rapid cluster renew-crypto …`
#[expect(clippy::print_stdout, reason = "a command's answer")]
pub(crate) fn renew_crypto(options: &RenewCrypto) -> Result<()> {
    let dir = &options.data.data_dir;
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).with_context(|| path.display().to_string())
    };
    let given = options.cluster_domain_secret.as_ref().map(read).transpose()?;
    embedded::secret::renew_domain_secret(dir, given.as_deref())
        .with_context(|| dir.display().to_string())?;
    println!("renewed the cluster domain secret in {}", dir.display());
    Ok(())
}

/// `rapid os …`
#[expect(clippy::print_stdout, reason = "a command's answer")]
pub(crate) fn os(command: &OsCommand) -> Result<()> {
    let OsCommand::Install { data, name } = command;
    let dir = data.data_dir.join("os");
    let progress: node::Feedback = Arc::new(|line: &str| println!("{line}"));
    let runtime = runtime()?;
    let installed = match name.as_str() {
        node::debian::NAME => runtime.block_on(node::debian::install(&dir, progress)),
        _ => runtime.block_on(node::tiny::install(&dir, progress)),
    };
    installed.with_context(|| format!("cannot install {name}"))?;
    println!("{name} is in {}", dir.display());
    Ok(())
}

/// `rapid console NAME`
#[expect(clippy::print_stderr, reason = "a word beside the console's own output")]
pub(crate) fn console(options: &Console) -> Result<()> {
    let socket = node::console::find(&options.data.data_dir, &options.name).with_context(|| {
        format!("instance {} has no console: it does not run here", options.name)
    })?;
    eprintln!("Attached to the console of {}; Ctrl-] leaves.", options.name);
    let left = runtime()?.block_on(node::console::attach(&socket))?;
    match left {
        node::console::Attached::Left => eprintln!("\r\nLeft the console of {}.", options.name),
        node::console::Attached::Closed => {
            eprintln!("\r\nThe console of {} was closed.", options.name)
        }
    }
    Ok(())
}

/// `rapid screenshot NAME FILE`
pub(crate) fn screenshot(options: &Screenshot) -> Result<()> {
    let picture = node::screen::take(&options.data.data_dir, &options.name);
    let png = runtime()?.block_on(picture)?;
    if options.file.as_os_str() == "-" {
        return std::io::stdout().write_all(&png).context("can't write the picture");
    }
    // What is on a screen is for nobody else.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&options.file)
        .and_then(|mut file| file.write_all(&png))
        .with_context(|| format!("can't write {}", options.file.display()))
}

/// A runtime for a command that does one thing.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no async runtime")
}
