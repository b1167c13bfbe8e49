//! MongoDB: every host by itself, then the deployment as the relay's user.

use std::time::Duration;

use super::ask::{Clock, within};
use super::deployment;
use super::hosts::{Usable, probe, unreachable};
use super::outbox::Sample;
use crate::config::Config;
use crate::finding::Finding;

/// The findings of MongoDB, and what is compared with NATS.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    /// Of the host whose clock differs most.
    pub(super) clock: Option<(String, Clock)>,
    pub(super) sample: Option<Sample>,
}

pub(super) async fn look(config: &Config, timeout: Duration) -> Checked {
    let mut checked = Checked::default();
    let mut options = match within(timeout, config.mongodb.options("check")).await {
        Ok(Ok(options)) => options,
        Ok(Err(error)) => {
            checked.findings.push(no_hosts(config, &error.report().to_string()));
            return checked;
        }
        Err(reason) => {
            let reason = format!("the hosts of MONGODB_URI could not be looked up: {reason}");
            checked.findings.push(no_hosts(config, &reason));
            return checked;
        }
    };

    let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let at = format!("mongod {hosts}");

    // Shorter than the timeout of a question, so that the driver's own reason is reported.
    options.server_selection_timeout = Some(timeout.mul_f64(0.9));
    options.connect_timeout = Some(timeout);

    let hosts = probe(&options, timeout).await;
    checked.findings.push(hosts.reachable(&at));

    let Some(first) = hosts.first() else {
        return checked;
    };
    checked.clock = hosts.clock();

    let (topology, usable) = hosts.topology(&at, &mut options);
    checked.findings.push(topology);

    if usable == Usable::No {
        return checked;
    }

    let (members, usable) = hosts.members(&at, &options, timeout).await.unzip();
    checked.findings.extend(members);

    if usable == Some(Usable::No) {
        return checked;
    }

    let (findings, sample) = deployment::look(config, options, &at, &first.hello, timeout).await;
    checked.findings.extend(findings);
    checked.sample = sample;

    checked
}

/// The hosts are not known, so none was asked.
fn no_hosts(config: &Config, reason: &str) -> Finding {
    match config.mongodb.srv_record() {
        None => unreachable("mongod", reason),
        Some(record) => {
            let remedy = format!(
                "$ nslookup -type=SRV {record}   # once it names the hosts, the relay continues, or\n\
                 MONGODB_URI: correct the host"
            );
            Finding::fail("mongodb.reachable", "mongod", reason, remedy)
        }
    }
}
