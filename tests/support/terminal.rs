//! A command on a terminal.

use std::fs::File;
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::OUTBOXD;

/// Starts outboxd on a terminal of so many columns. The terminal can't be read any more once the
/// command has ended.
pub(crate) fn on_terminal(
    args: &[&str],
    env: Vec<(String, String)>,
    columns: u16,
) -> (Child, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let side = ptsname(&terminal, Vec::new()).unwrap();
    let side = File::options().read(true).write(true).open(side.to_str().unwrap()).unwrap();

    let child = Command::new(OUTBOXD)
        .env_clear()
        .envs(env)
        .args(args)
        .stdin(side.try_clone().unwrap())
        .stdout(side.try_clone().unwrap())
        .stderr(side)
        .spawn()
        .unwrap();
    (child, File::from(terminal))
}
