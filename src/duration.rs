//! Durations as text: for people, and for the `nats` command.
//!
//! A setting is printed as it is parsed, in full, by `humantime` (see `config/setting.rs`).

use std::time::Duration;

/// The two largest units, from days to milliseconds: `3h 20m`.
pub(crate) fn for_people(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];

    let mut left = duration.as_millis();
    let Some(largest) = UNITS.iter().position(|(size, _)| left >= *size) else {
        return "0s".to_owned();
    };

    let shown = UNITS[largest..].iter().take(2).filter_map(|(size, unit)| {
        let count = left / size;
        left %= size;
        (count > 0).then(|| format!("{count}{unit}"))
    });

    shown.collect::<Vec<_>>().join(" ")
}

/// The exact duration, to the millisecond, as flags of the `nats` command take it: `90s`.
pub(crate) fn for_nats(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (secs, 0) if secs % 3600 == 0 && secs > 0 => format!("{}h", secs / 3600),
        (secs, 0) if secs % 60 == 0 && secs > 0 => format!("{}m", secs / 60),
        (secs, 0) => format!("{secs}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_the_two_largest_units() {
        for (millis, text) in [
            (0, "0s"),
            (500, "500ms"),
            (1500, "1s 500ms"),
            (59_000, "59s"),
            (60_000, "1m"),
            (60_500, "1m"),
            (3_725_000, "1h 2m"),
            (86_400_000, "1d"),
            (90_061_000, "1d 1h"),
        ] {
            assert_eq!(for_people(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_nats_command_reads_one_exact_number() {
        for (millis, text) in
            [(0, "0s"), (86_400_000, "24h"), (300_000, "5m"), (90_000, "90s"), (1500, "1500ms")]
        {
            assert_eq!(for_nats(Duration::from_millis(millis)), text);
        }
    }
}
