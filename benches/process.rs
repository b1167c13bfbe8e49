//! A running peer: whether it is alive, its processor time and its memory, as Linux reports them.

use std::process::Child;

use tempfile::TempDir;

use super::peer::Peer;

/// Microseconds per clock tick of `/proc/PID/stat`.
const TICK_US: f64 = 10_000.0;

/// A peer at work. Dropping it kills the process.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    child: Child,
    /// The process keeps its files here.
    _scratch: TempDir,
}

impl Running {
    pub(crate) fn new(peer: Peer, child: Child, scratch: TempDir) -> Self {
        Self { peer, child, _scratch: scratch }
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor time so far, user and system, in microseconds.
    pub(crate) fn processor_us(&self) -> f64 {
        processor_us(self.child.id())
    }

    /// Processor time so far of the threads that still run, in microseconds. Much finer than
    /// [`Self::processor_us`], for a peer that has little to do.
    pub(crate) fn fine_processor_us(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanoseconds = |thread: std::io::Result<std::fs::DirEntry>| -> Option<f64> {
            let times = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            times.split(' ').next()?.parse().ok()
        };

        threads.expect("the peer runs").filter_map(nanoseconds).sum::<f64>() / 1e3
    }

    /// The largest resident memory so far, in MB.
    pub(crate) fn peak_mb(&self) -> f64 {
        self.memory_mb("VmHWM")
    }

    /// The resident memory now, in MB.
    pub(crate) fn resident_mb(&self) -> f64 {
        self.memory_mb("VmRSS")
    }

    fn memory_mb(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let value = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");

        let kilobytes = value.trim_start_matches(':').trim().trim_end_matches(" kB");
        kilobytes.parse::<f64>().expect("a number of kB") / 1024.0
    }

    fn proc(&self, file: &str) -> String {
        proc(self.child.id(), file)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn proc(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs")
}

/// Processor time of a process so far, user and system, in microseconds.
pub(crate) fn processor_us(pid: u32) -> f64 {
    let stat = proc(pid, "stat");

    // The program's name may hold spaces and parentheses, so count fields from its end. There, user
    // and system time (fields 14 and 15) are at 11 and 12.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| {
        fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).expect("a number of ticks")
    };

    (ticks(11) + ticks(12)) * TICK_US
}
