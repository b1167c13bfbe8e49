//! One picture of `outboxd watch`, with lines no wider than the terminal.

use std::collections::VecDeque;

use crate::cli::output::{age, events};
use crate::document::state::State;
use crate::mongodb::groups::Group;
use crate::mongodb::stats::Stats;
use crate::operator::flow::Flow;
use crate::operator::groups::Remedied;
use crate::operator::look::Look;
use crate::printable::printable;

/// Shortest rest between questions to MongoDB, in multiples of the time the last answer took.
pub(super) const REST: u32 = 4;
/// Width of the names on the left, in columns.
const NAMES: usize = 12;
/// Groups shown when the height is unlimited.
const GROUPS: usize = 10;
/// Bars of the small chart.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the picture shows.
#[derive(Debug)]
pub(super) struct View {
    pub(super) outbox: String,
    pub(super) stream: String,
    pub(super) admin: String,
    /// Time of day.
    pub(super) now: String,
    /// `Ok(None)` before the first answer.
    pub(super) outbox_state: Result<Option<Look>, String>,
    pub(super) relay_state: Result<Flow, String>,
    /// Events published a second, the newest last.
    pub(super) history: VecDeque<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    None,
    Dim,
    Bold,
    Red,
    Yellow,
}

/// Pieces of a line, each in its colour.
type Line = Vec<(Colour, String)>;

/// The time of day, in UTC.
pub(super) fn now() -> String {
    let now = bson::DateTime::now().try_to_rfc3339_string().unwrap_or_default();
    now.get(11..19).unwrap_or_default().to_owned()
}

/// The lines, each cut to `width` and all to `height`; without colour when `plain`.
pub(super) fn picture(
    view: &View,
    width: usize,
    height: Option<usize>,
    plain: bool,
) -> Vec<String> {
    let mut lines = vec![head(view, width, height.is_some()), relayed_by(view), Vec::new()];
    flow(view, &mut lines);
    lines.push(Vec::new());

    match &view.outbox_state {
        Ok(Some(Look { stats, groups, .. })) => {
            outbox(stats, &mut lines);
            let room = height.map_or(GROUPS, |height| height.saturating_sub(lines.len() + 3));
            stuck(groups, room.min(2 * GROUPS), &mut lines);
        }
        Ok(None) => {}
        Err(error) => {
            lines.push(vec![(Colour::Red, error.clone())]);
            lines.push(vec![(
                Colour::None,
                "the content of the outbox is unknown; `outboxd check` shows why".to_owned(),
            )]);
        }
    }

    lines.truncate(height.unwrap_or(usize::MAX));
    lines.iter().map(|line| draw(line, width, plain)).collect()
}

fn head(view: &View, width: usize, live: bool) -> Line {
    let left = format!("{} to {}", view.outbox, view.stream);
    let right = format!("{}{} UTC", if live { "q quits   " } else { "" }, view.now);
    let gap = width.saturating_sub(left.chars().count() + right.len()).max(2);
    vec![(Colour::Bold, left), (Colour::Dim, format!("{:gap$}{right}", ""))]
}

fn relayed_by(view: &View) -> Line {
    let Ok(Some(Look { stats, .. })) = &view.outbox_state else {
        return Vec::new();
    };

    match &stats.lease {
        Some(lease) if !lease.is_a_relays() => {
            let ahead = age(lease.expires_in_seconds.unsigned_abs());
            let lost = format!("NO RELAY is known: the lease of {} ends in {ahead}", lease.holder);
            vec![(Colour::Red, lost)]
        }
        Some(lease) if lease.expires_in_seconds >= 0 => {
            vec![(Colour::None, format!("relayed by {}, term {}", lease.holder, lease.term))]
        }
        Some(lease) => {
            let ago = age(lease.expires_in_seconds.unsigned_abs());
            let text = format!(
                "NO RELAY: the lease of {} ended {ago} ago; start `outboxd run`",
                lease.holder
            );
            vec![(Colour::Red, text)]
        }
        None => vec![(
            Colour::Red,
            "NO RELAY has ever run on this outbox; start `outboxd run`".to_owned(),
        )],
    }
}

fn flow(view: &View, lines: &mut Vec<Line>) {
    let flow = match &view.relay_state {
        Ok(flow) => flow,
        Err(why) => {
            lines.push(named("rates", format!("unknown: {} {why}", view.admin)));
            lines.push(named(
                "",
                "(the relay's admin endpoint; --admin URL names another)".to_owned(),
            ));
            return;
        }
    };

    if !flow.leads {
        lines.push(named("rates", format!("the relay at {} stands by", view.admin)));
        lines.push(named("", "(--admin URL names the one that relays)".to_owned()));
        return;
    }

    let rate = |rate: Option<f64>| {
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", number(rate)))
    };
    let mut published = named("published", format!("{:>10}   ", rate(flow.published)));
    published.push((Colour::Dim, chart(&view.history)));
    lines.push(published);

    let failing = flow.failed.is_some_and(|rate| rate > 0.0);
    let mut failed = named("refusals", String::new());
    failed.push((
        if failing { Colour::Yellow } else { Colour::None },
        format!("{:>10}", rate(flow.failed)),
    ));
    lines.push(failed);

    let latency = match flow.latency {
        Some((p50, p99)) => {
            format!("{:>10}   median from commit to ack, p99 {}", seconds(p50), seconds(p99))
        }
        None => "         -".to_owned(),
    };
    lines.push(named("latency", latency));

    let in_flight =
        format!("{:>10}   {} in memory", number(flow.in_flight), events(flow.buffered as u64));
    lines.push(named("in flight", in_flight));
}

fn outbox(stats: &Stats, lines: &mut Vec<Line>) {
    let oldest = stats.oldest_seconds.map_or_else(|| "-".to_owned(), age);
    lines.push(named("backlog", format!("{:>10}   oldest {oldest}", number(stats.backlog as f64))));

    for (state, count, colour) in [
        (State::Failed, stats.failed, Colour::Yellow),
        (State::Parked, stats.parked, Colour::Yellow),
        (State::Dead, stats.dead, Colour::Red),
    ] {
        let mut line = named(state.word(), String::new());
        let colour = if count > 0 { colour } else { Colour::None };
        line.push((colour, format!("{:>10}", number(count as f64))));
        line.push((Colour::Dim, format!("   {}", state.meaning())));
        lines.push(line);
    }

    if let Some(later) = stats.scheduled.as_ref().filter(|later| later.events + later.dead > 0) {
        let mut line = named(State::Scheduled.word(), String::new());
        line.push((Colour::None, format!("{:>10}", number(later.events as f64))));
        line.push(match (later.overdue, later.next_due_in_seconds) {
            (1.., _) => (Colour::Yellow, format!("   overdue for {}", age(later.overdue_seconds))),
            (0, Some(next)) => (Colour::Dim, format!("   the next is due in {}", age(next))),
            (0, None) => (Colour::Dim, String::new()),
        });
        lines.push(line);
    }
}

/// The largest groups that fit in so many rows. A group keeps its place while its numbers change.
fn stuck(groups: &[Remedied], room: usize, lines: &mut Vec<Line>) {
    if groups.is_empty() || room == 0 {
        return;
    }

    lines.push(Vec::new());
    let row = |failed: &str, dead: &str, id: &str, code: &str, error: &str| {
        format!("{failed:>7}  {dead:>7}  {id:<8}  {:<16}  {error}", cut(code, 16))
    };
    lines.push(vec![(Colour::Dim, row("FAILED", "DEAD", "GROUP", "CODE", "REASON"))]);

    let mut shown: Vec<&Group> = groups.iter().take(room).map(|remedied| &remedied.group).collect();
    shown.sort_by_key(|group| (&group.code, &group.id));
    for Group { failed, dead, code, error, id, .. } in shown {
        let [code, error] = [code, error].map(|text| printable(text));
        let colour = if *dead > 0 { Colour::Red } else { Colour::Yellow };
        let [failed, dead] = [failed, dead].map(|count| number(*count as f64));
        lines.push(vec![(colour, row(&failed, &dead, id, &code, &error))]);
    }

    let more = groups.len().saturating_sub(room);
    let more = if more > 0 { format!("{more} more; ") } else { String::new() };
    let what = "`outboxd groups` shows them, `outboxd groups ID` what to do";
    lines.push(vec![(Colour::Dim, format!("{more}{what}"))]);
}

fn named(name: &str, value: String) -> Line {
    vec![(Colour::None, format!("  {name:<NAMES$}{value}"))]
}

fn chart(history: &VecDeque<f64>) -> String {
    let most = history.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| {
        if most > 0.0 { BARS[((rate / most * 7.0).round() as usize).min(7)] } else { BARS[0] }
    };
    history.iter().map(bar).collect()
}

/// With commas between thousands; one digit after the point below ten.
fn number(value: f64) -> String {
    if value > 0.0 && value < 9.95 && value.fract() > 0.0 {
        return format!("{value:.1}");
    }

    let digits = format!("{:.0}", value.max(0.0));
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }

    grouped
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn draw(line: &Line, width: usize, plain: bool) -> String {
    let mut left = width;
    let mut drawn = String::new();
    for (colour, text) in line {
        let text = cut(&printable(text), left);
        left -= text.chars().count();

        let code = match colour {
            _ if plain || text.is_empty() => None,
            Colour::None => None,
            Colour::Dim => Some(2),
            Colour::Bold => Some(1),
            Colour::Red => Some(31),
            Colour::Yellow => Some(33),
        };
        drawn += &code.map_or_else(|| text.clone(), |code| format!("\x1b[{code}m{text}\x1b[0m"));
    }

    if plain { drawn.trim_end().to_owned() } else { drawn }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let group = Group {
            held: None,
            id: "59a93a4f".to_owned(),
            failed: 3,
            class: "config".to_owned(),
            code: "not-covered".to_owned(),
            error: "no subject of stream SHOP covers \x1b[2Jticket:moved ".repeat(4),
            events: 1_234_567,
            dead: 1,
            first: None,
            last: None,
            sample: "6745f0a1b2c3d4e5f6a7b8c9".to_owned(),
            example: String::new(),
        };

        let stats = Stats {
            backlog: 1_234_567,
            failed: 3,
            dead: 1,
            oldest_seconds: Some(75),
            ..Stats::default()
        };

        let published = Some(1204.0);
        View {
            outbox: "shop.outbox".to_owned(),
            stream: "SHOP".to_owned(),
            admin: "http://127.0.0.1:9464".to_owned(),
            now: "03:12:44".to_owned(),
            outbox_state: Ok(Some(Look {
                stats,
                groups: vec![Remedied { group, remedy: "" }; 30],
                ..Look::default()
            })),
            relay_state: Ok(Flow {
                leads: true,
                published,
                latency: Some((0.0008, 2.0)),
                ..Flow::default()
            }),
            history: [0.0, 10.0, 20.0].into(),
        }
    }

    #[test]
    fn a_group_keeps_its_place_while_its_numbers_change() {
        let places = |dead: [u64; 2]| {
            let mut view = view();
            let Ok(Some(Look { groups, .. })) = &mut view.outbox_state else { return Vec::new() };
            groups.truncate(2);
            for (Remedied { group, .. }, (code, dead)) in
                groups.iter_mut().zip([("b", dead[0]), ("a", dead[1])])
            {
                (group.code, group.dead, group.events) = (code.to_owned(), dead, dead);
            }
            groups.sort_by_key(|shown| std::cmp::Reverse(shown.group.events));
            let lines = picture(&view, 80, Some(24), true);
            let codes = lines.iter().filter_map(|line| line.split("59a93a4f  ").nth(1));
            codes.map(|code| code[..1].to_owned()).collect()
        };
        assert_eq!(places([5, 1]), ["a", "b"]);
        assert_eq!(places([1, 5]), ["a", "b"]);
    }

    #[test]
    fn it_fits_the_terminal_and_obeys_nothing_from_outside() {
        for (width, height) in [(80, Some(24)), (160, Some(50)), (40, Some(10)), (80, None)] {
            let lines = picture(&view(), width, height, true);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
            assert!(lines.len() <= height.unwrap_or(usize::MAX), "{lines:#?}");
            assert!(!lines.concat().contains('\x1b'), "{lines:#?}");
        }

        let lines = picture(&view(), 80, Some(24), true).join("\n");
        for part in [
            "1,204/s   ▁▅█",
            "0.8 ms   median from commit to ack, p99 2.0 s",
            "1,234,567   oldest 1m 15s",
            "NO RELAY",
            "more; `outboxd groups`",
            "59a93a4f",
        ] {
            assert!(lines.contains(part), "{part:?} in\n{lines}");
        }

        assert!(picture(&view(), 80, Some(24), false).concat().contains("\x1b[31m"));
    }
}
