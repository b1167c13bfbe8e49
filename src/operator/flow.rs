//! The relay's metrics, and what changed from one sample to the next.

use tokio::time::Instant;

use super::endpoint::Admin;

/// The metrics at one time.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    /// The label that every metric of the watched outbox has.
    outbox: String,
    metrics: String,
}

/// What changed since the previous sample.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Whether it holds the lease.
    pub(crate) leads: bool,
    /// Events a second.
    pub(crate) published: Option<f64>,
    /// Events a second that were marked as failed.
    pub(crate) failed: Option<f64>,
    /// Commit to ack, in seconds: the median and the 99th percentile. `None` when nothing was
    /// published.
    pub(crate) latency: Option<(f64, f64)>,
    pub(crate) in_flight: f64,
    pub(crate) buffered: f64,
}

impl Sample {
    /// The metrics of one outbox now, or why there are none.
    pub(crate) async fn take(admin: &Admin, outbox: &str) -> Result<Self, String> {
        let metrics = admin.get("/metrics").await?;
        if !metrics.contains("outboxd_build_info") {
            return Err("is not outboxd's".to_owned());
        }

        let label = format!("outbox=\"{outbox}\"");
        if !metrics.contains(&label) {
            return Err(format!("relays another outbox than {outbox}"));
        }

        Ok(Self { at: Instant::now(), outbox: label, metrics })
    }

    /// The sum of a metric over its other labels.
    fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// Each sample of a metric of this outbox: its labels and its value.
    fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.metrics.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_its_own = labels.starts_with('{') && labels.contains(&self.outbox);
            Some((labels, value.parse().ok()?)).filter(|_| is_its_own)
        })
    }

    /// The upper bounds of a histogram's buckets, and how many fell in each or below.
    fn buckets(&self) -> Vec<(f64, f64)> {
        let buckets =
            self.of("outboxd_delivery_latency_seconds_bucket").filter_map(|(labels, count)| {
                let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
                // Rust reads "+Inf", too.
                Some((bound.parse().ok()?, count))
            });
        buckets.collect()
    }

    /// What changed between the two. A restarted relay counts from zero.
    pub(crate) fn since(&self, before: Option<&Self>) -> Flow {
        let published = |sample: &Self| sample.sum("outboxd_events_published_total");
        let before = before.filter(|before| published(before) <= published(self));
        let seconds = before.map(|before| self.at.duration_since(before.at).as_secs_f64());
        let rate = |name: &str| Some((self.sum(name) - before?.sum(name)) / seconds?.max(0.001));
        let earlier = before.map(Self::buckets).unwrap_or_default();
        let buckets: Vec<_> = self
            .buckets()
            .into_iter()
            .map(|(bound, count)| {
                let had =
                    earlier.iter().find(|(of, _)| *of == bound).map_or(0.0, |(_, count)| *count);
                (bound, count - had)
            })
            .collect();

        Flow {
            leads: self.sum("outboxd_leader") > 0.0,
            published: rate("outboxd_events_published_total"),
            failed: rate("outboxd_publish_failures_total"),
            latency: quantile(&buckets, 0.5).zip(quantile(&buckets, 0.99)),
            in_flight: self.sum("outboxd_in_flight_events"),
            buffered: self.sum("outboxd_buffered_events"),
        }
    }
}

/// Between the bounds of the bucket that it falls into, as Prometheus' `histogram_quantile` does.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let all = buckets.last()?.1;
    if all <= 0.0 {
        return None;
    }

    let rank = q * all;
    let i = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) = if i == 0 { (0.0, 0.0) } else { buckets[i - 1] };
    let (high, count) = buckets[i];

    // Over the largest bound all that is known is the bound.
    Some(if high.is_finite() {
        low + (high - low) * (rank - below) / (count - below).max(1.0)
    } else {
        low
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(seconds: u64, published: u64, buckets: [u64; 3]) -> Sample {
        let at = Instant::now() + Duration::from_secs(seconds);
        let [one, two, all] = buckets;
        let outbox = "outbox=\"shop.outbox\"".to_owned();
        let bucket = format!("outboxd_delivery_latency_seconds_bucket{{{outbox},le=");
        let metrics = format!(
            "# TYPE x counter\noutboxd_events_published_total{{{outbox}}} {published}\n\
             outboxd_events_published_total{{outbox=\"bank.outbox\"}} 700\n\
             outboxd_publish_failures_total{{{outbox},class=\"poison\"}} 3\n\
             outboxd_publish_failures_total{{{outbox},class=\"config\"}} 4\n\
             {bucket}\"0.001\"}} {one}\n{bucket}\"0.01\"}} {two}\n{bucket}\"+Inf\"}} {all}\n\
             outboxd_delivery_latency_seconds_count{{{outbox}}} {all}\n\
             outboxd_leader{{{outbox}}} 1\noutboxd_in_flight_events{{outbox=\"bank.outbox\"}} 9\n"
        );

        Sample { at, outbox, metrics }
    }

    #[test]
    fn rates_are_of_the_watched_outbox_between_two_samples() {
        let (first, second) = (sample(0, 100, [0, 100, 100]), sample(10, 1100, [900, 1100, 1100]));
        let flow = second.since(Some(&first));
        assert!(flow.leads);
        assert!(flow.in_flight.abs() < 0.001, "another outbox's: {flow:?}");
        assert!((flow.published.expect("a rate") - 100.0).abs() < 0.1, "{flow:?}");
        assert!(flow.failed.expect("a rate").abs() < 0.001, "{flow:?}");

        let (p50, p99) = flow.latency.expect("a latency");
        assert!(p50 < 0.001 && p99 > 0.009 && p99 <= 0.01, "{flow:?}");
        // Nothing new, and nothing to compare with.
        assert!(second.since(Some(&sample(0, 1100, [900, 1100, 1100]))).latency.is_none());
        assert!(second.since(None).published.is_none());
        // Started again in between.
        assert!(sample(20, 5, [5, 5, 5]).since(Some(&second)).published.is_none());
        // Beyond the last bound.
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 5.0)], 0.5), Some(1.0));
    }
}
