//! `cargo xtask docs`: writes what is generated from the tables of the remote API, or with `--check` tells whether it is as it would be
//! written.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use rapi::{manual, openapi};

use crate::tools::Table;

/// The command's options.
#[derive(Args)]
pub(crate) struct Docs {
    /// Change nothing; fail when a file is not as it should be.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Docs {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let document = serde_json::to_string_pretty(&openapi::document())?;
        let files = [
            ("access.txt", openapi::access()),
            ("openapi.json", document + "\n"),
            ("api.md", manual::manual()),
            ("tools.md", Table::read()?.document()),
        ];
        for (name, text) in files {
            let path = docs.join(name);
            if fs::read_to_string(&path).is_ok_and(|old| old == text) {
                continue;
            }
            if self.check {
                bail!("docs/{name} is not what the tables say: run cargo xtask docs");
            }
            fs::create_dir_all(&docs)?;
            fs::write(&path, text).with_context(|| format!("docs/{name} cannot be written"))?;
            println!("docs/{name}");
        }
        Ok(())
    }
}
