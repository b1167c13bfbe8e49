//! Patterns of subjects, as NATS reads them: `*` is one token, a `>` at the end one or more.

/// Whether some subject matches both patterns.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// Whether one of the patterns matches every subject that `subject` matches.
pub(crate) fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Whether `pattern` matches every subject that `subject`, which may have wildcards, matches.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }

    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_the_subjects_that_the_server_would_route_to_it() {
        for (pattern, subject) in [
            ("*", "ticket:created"),
            (">", "a"),
            (">", "a.b.>"),
            ("a.*", "a.b"),
            ("a.>", "a.b.c"),
            ("a.b", "a.b"),
            ("a.*", "a.*"),
        ] {
            assert!(covers(pattern, subject), "{pattern} covers {subject}");
        }
        for (pattern, subject) in [
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a.>"),
            ("a.b", "a.*"),
            ("a.b", "a"),
            ("a", "a.b"),
            ("*", ">"),
            ("a.*", "b.c"),
        ] {
            assert!(!covers(pattern, subject), "{pattern} doesn't cover {subject}");
        }
    }

    #[test]
    fn patterns_overlap_where_a_subject_matches_both() {
        for (one, other) in [("a.*", "*.b"), ("a.>", "a.b.c"), (">", "a"), ("a.b", "a.b")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [("a.*", "b.*"), ("a.>", "a"), ("a", "a.b"), ("_INBOXES.x", "_INBOX.>")]
        {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }
}
