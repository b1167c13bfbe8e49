//! The terminal that `outboxd watch` draws on, or the pipe that it writes to.

use std::io::stdout;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::output::write;
use crate::error::{Error, ErrorKind, Result};
use crate::shutdown::{self, StopSignal};

/// Columns where there is no terminal.
const WIDTH: usize = 80;

/// What the person at the terminal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Quit,
    Resized,
}

/// Gives the terminal back as it was when it is dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    live: bool,
    inputs: mpsc::UnboundedReceiver<Input>,
    stop: CancellationToken,
}

impl Terminal {
    pub(super) fn start(live: bool) -> Result<Self> {
        let refused =
            |error| Error::with_source(ErrorKind::Os, "the terminal can't be used", error);
        let stop = shutdown::on_signals(&[
            StopSignal::Terminate,
            StopSignal::Interrupt,
            StopSignal::Hangup,
        ])?;

        let (keys, inputs) = mpsc::unbounded_channel();
        let terminal = Self { live, inputs, stop };

        if live {
            enable_raw_mode().map_err(refused)?;
            execute!(stdout(), EnterAlternateScreen, cursor::Hide).map_err(refused)?;
            // A thread: reading keys blocks. It ends with the process.
            std::thread::spawn(move || {
                while let Ok(event) = crossterm::event::read() {
                    let sent = input(&event).map(|input| keys.send(input));
                    if matches!(sent, Some(Err(_))) {
                        break;
                    }
                }
            });
        }

        Ok(terminal)
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Columns, and rows if they have an end.
    pub(super) fn size(&self) -> (usize, Option<usize>) {
        match size() {
            Ok((width, height)) if self.live && width > 0 => (width.into(), Some(height.into())),
            _ => (WIDTH, None),
        }
    }

    /// Draws the lines. Returns whether anyone still reads them.
    pub(super) fn show(&mut self, lines: &[String]) -> Result<bool> {
        if !self.live {
            return write(&(lines.join("\n") + "\n\n"));
        }

        let mut drawn = String::from("\x1b[?2026h\x1b[H");
        for line in lines {
            drawn += line;
            drawn += "\x1b[K\r\n";
        }

        drawn.truncate(drawn.len() - 2);
        drawn += "\x1b[J\x1b[?2026l";
        write(&drawn)
    }

    /// Waits until the person or the system asks to quit.
    pub(super) async fn quits(&mut self) {
        while self.input().await != Input::Quit {}
    }

    /// Waits for what the person or the system wants.
    pub(super) async fn input(&mut self) -> Input {
        tokio::select! {
            () = self.stop.cancelled() => Input::Quit,
            // Without a terminal there is no sender.
            Some(input) = self.inputs.recv() => input,
        }
    }
}

fn input(event: &Event) -> Option<Input> {
    match event {
        Event::Resize(..) => Some(Input::Resized),
        Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) => match code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Input::Quit),
            KeyCode::Char('c' | 'd') if modifiers.contains(KeyModifiers::CONTROL) => {
                Some(Input::Quit)
            }
            _ => None,
        },
        _ => None,
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.live {
            // A terminal that is gone needs nothing more.
            let _ = queue!(stdout(), Clear(ClearType::All), cursor::Show);
            let _ = execute!(stdout(), LeaveAlternateScreen);
            let _ = disable_raw_mode();
        }
    }
}
