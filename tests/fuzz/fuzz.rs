//! Passes the inputs of libFuzzer to the target that `OUTBOXD_FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outboxd::fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("OUTBOXD_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    let names = TARGETS.map(|(name, _)| name).join(", ");
    found.unwrap_or_else(|| panic!("set OUTBOXD_FUZZ_TARGET to one of {names}")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
