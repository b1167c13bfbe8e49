//! Finds the commit for `outboxd --version`: from OUTBOXD_COMMIT, from the git repository, or from
//! the package that cargo made of it.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=OUTBOXD_COMMIT");
    let given = std::env::var("OUTBOXD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit =
        given.or_else(repository).or_else(package).unwrap_or_else(|| "unknown commit".to_owned());

    println!("cargo:rustc-env=OUTBOXD_COMMIT={commit}");
    println!("cargo:rerun-if-changed=build.rs");
}

fn git(args: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;

    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn repository() -> Option<String> {
    // This folder may lie inside another project's repository.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(".").canonicalize().ok()? {
        return None;
    }

    // A new commit changes the log, and cargo then runs this script again.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }

    git(&["rev-parse", "--short=12", "HEAD"])
}

fn package() -> Option<String> {
    let info = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    info.split("\"sha1\": \"").nth(1)?.get(..12).map(str::to_owned)
}
