//! The table that the measurements are printed in, and the machine that they were made on.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// What is hoped for, and whether it came.
pub(crate) struct Bar {
    pub(crate) text: &'static str,
    pub(crate) met: bool,
}

/// A table: what, how much, how, the bar.
pub(crate) struct Table {
    head: String,
    rows: Vec<[String; 4]>,
}

impl Table {
    pub(crate) fn new(head: String) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: &str, value: &str, how: &str, bar: Option<&Bar>) {
        let bar = match bar {
            None => String::new(),
            Some(Bar { text, met: true }) => format!("{text}: met"),
            Some(Bar { text, met: false }) => format!("{text}: NOT MET"),
        };
        self.rows.push([name.to_owned(), value.to_owned(), how.to_owned(), bar]);
    }

    /// The table as Markdown.
    pub(crate) fn text(&self) -> String {
        let titles = ["measured", "value", "", "bar"].map(str::to_owned);
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&titles]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        let line = |cells: &[String; 4]| {
            let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!("{}\n\n{}", self.head, line(&titles));
        text += &line(&widths.map(|width| "-".repeat(width)));
        for row in &self.rows {
            text += &line(row);
        }
        text
    }
}

/// How the server is measured beside static answers.
pub(crate) const BESIDE_STATIC: &str = "Release build, TLS 1.3, HTTP/1.1, 8 clients unless said otherwise. The clients share the \
    cores with the server,\nand so they do with the static answers of the same bytes from the same HTTP stack that stand beside.";

/// The machine, in words, and how it is measured there.
pub(crate) fn machine(how: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
        value.unwrap_or("unknown").to_owned()
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    let mut text = format!("{}, {cores} cores", after(&cpu, "model name"));
    // Writing to a string cannot fail.
    let _ = write!(text, "; memory {}", after(&memory, "MemTotal"));
    let _ = write!(text, "; Linux {}", read("/proc/sys/kernel/osrelease").trim());
    let _ = write!(text, "; {}", rustc.unwrap_or_else(|_| "rustc unknown".to_owned()));
    let _ = write!(text, "; load before {}", read("/proc/loadavg").trim());
    text.push('\n');
    text += how;
    text
}
