//! A wall clock that a test sets, for the processes that it starts: a library that is loaded before
//! the system's adds the seconds in a file to what the system's clock shows. The monotonic clock
//! stays. The linker that builds the tests builds it, too.

use std::path::PathBuf;
use std::process::Command;

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    static int file = -1;
    const char *path = getenv("TEST_WALL_CLOCK");
    if (file < 0 && path) file = open(path, O_RDONLY | O_CLOEXEC);
    char text[24] = "";
    if (file < 0 || pread(file, text, sizeof text - 1, 0) <= 0) return 0;
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

pub(crate) struct WallClock {
    library: PathBuf,
    shift: PathBuf,
    _folder: tempfile::TempDir,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the clock");
        let [source, library, shift] =
            ["clock.c", "clock.so", "shift"].map(|name| folder.path().join(name));
        std::fs::write(&source, SHIM).expect("the source is written");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status();
        assert!(built.expect("cc runs").success(), "the clock is built");

        let clock = Self { library, shift, _folder: folder };
        clock.set(0);
        clock
    }

    /// The variables of a process that has this clock.
    pub(crate) fn env(&self) -> [(&str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().expect("a path in UTF-8")),
            ("TEST_WALL_CLOCK", self.shift.to_str().expect("a path in UTF-8")),
        ]
    }

    /// Sets the clock so many seconds ahead of the system's, or behind it.
    pub(crate) fn set(&self, seconds: i64) {
        // In place: the processes keep the file open.
        std::fs::write(&self.shift, format!("{seconds:<20}")).expect("the clock is set");
    }
}
