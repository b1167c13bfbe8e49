//! `outboxd completions` and `outboxd man`: shell completions and manual pages.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Command};
use clap_complete::Shell;

use super::output::print;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, ClapArgs)]
pub(super) struct CompletionsArgs {
    /// The shell that will run the script
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ManArgs {
    /// Folder for the pages: outboxd.1 and one for each verb
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(mut command: Command, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "outboxd", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(command: Command, args: &ManArgs) -> Result<()> {
    let refused = |error| {
        let message = format!("cannot write to {}; name a writable folder", args.folder.display());
        Error::with_source(ErrorKind::Os, message, error)
    };
    std::fs::create_dir_all(&args.folder).map_err(refused)?;
    clap_mangen::generate_to(command, &args.folder).map_err(refused)?;

    let page = args.folder.join("outboxd.1");
    print(&format!("read them with: man {}\n", page.display()))
}
