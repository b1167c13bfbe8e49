//! The stream as `outboxd migrate` creates it, and the refusals of JetStream to create it: each
//! with what it means and the lines that help. `migrate` prints them, `check` and `run` print those
//! that the account's limits foresee, and `outboxd explain` knows their codes.

use std::collections::HashMap;

use async_nats::jetstream::account::Account;
use async_nats::jetstream::stream::{
    Compression as Compressed, Config, DiscardPolicy, Placement, StorageType,
};

use crate::config::{Compression, Storage, StreamConfig};

/// The codes that the account's limits foresee.
const TOO_MANY: &str = "10027";
const NO_MEMORY: &str = "10028";
const NO_STORAGE: &str = "10047";
const SIZE_REQUIRED: &str = "10113";
const NO_TIER: &str = "10120";
const TOO_LARGE: &str = "10122";
/// JetStream's code of subjects that another stream has.
pub(super) const OVERLAP: &str = "10065";

/// A refusal to create a stream.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// JetStream's code.
    pub(crate) code: &'static str,
    /// What the error's text contains, where the code has several meanings.
    text: &'static str,
    pub(crate) meaning: &'static str,
    /// The lines that help: for the shell (`$`) or for a file (`name:`).
    pub(crate) remedy: &'static str,
}

const fn refusal(
    code: &'static str,
    text: &'static str,
    meaning: &'static str,
    remedy: &'static str,
) -> Refusal {
    Refusal { code, text, meaning, remedy }
}

/// The refusals of nats-server 2.10 to 2.15. The first that fits counts; an empty text always fits.
#[rustfmt::skip]
const REFUSALS: &[Refusal] = &[
    refusal("10002", "", "the account has reached its limits",
        "$ nats account info   # shows them\n\
         $ OUTBOXD_STREAM__MAX_BYTES=268435456 outboxd migrate   # 256 MiB, or what is left of them"),
    refusal("10005", "", "no servers fit: too few are up for stream.replicas, or none has enough space, or none matches stream.placement_cluster and stream.placement_tags",
        "$ nats server report jetstream   # as a user of the system account: which servers there are\n\
         $ OUTBOXD_STREAM__REPLICAS=1 outboxd migrate   # or start more servers, or correct the placement"),
    refusal("10008", "", "JetStream is temporarily unavailable", "$ outboxd migrate   # again, once the cluster has a leader"),
    refusal("10009", "", "the server is not the cluster's leader", "$ outboxd migrate   # again"),
    refusal("10023", "", "the server lacks resources",
        "$ OUTBOXD_STREAM__MAX_BYTES=268435456 outboxd migrate   # 256 MiB, or what the servers have left"),
    refusal(TOO_MANY, "", "the account has as many streams as it may have",
        "$ nats stream ls   # remove one that nobody needs, or raise the account's limit:\n\
         nats-server.conf: accounts { <account>: { jetstream: { max_streams: <more> } } }\n\
         $ outboxd migrate"),
    refusal(NO_MEMORY, "", "the server or the account has less memory than the stream needs",
        "$ OUTBOXD_STREAM__STORAGE=file outboxd migrate   # or a smaller OUTBOXD_STREAM__MAX_BYTES"),
    refusal("10035", "", "the server does not know the account", "NATS_CREDS: correct the credentials\n$ outboxd migrate"),
    refusal("10039", "", "JetStream is off for the account",
        "nats-server.conf: accounts { <account>: { jetstream: enabled } }\n$ outboxd migrate"),
    refusal(NO_STORAGE, "", "the server or the account has less storage on disk than the stream needs",
        "$ nats account info   # shows what is left\n\
         $ OUTBOXD_STREAM__MAX_BYTES=268435456 outboxd migrate   # 256 MiB, or what is left; without any: \
         OUTBOXD_STREAM__STORAGE=memory"),
    refusal("10049", "", "the server could not make its files", "$ df -h   # on the server; then look at its log\n$ outboxd migrate"),
    refusal("10052", "duplicates window", "stream.duplicate_window is above the server's limit",
        "nats-server.conf: jetstream { limits { duplicate_window: \"30m\" } }\n\
         $ nats-server --signal reload && outboxd migrate   # or a shorter OUTBOXD_STREAM__DUPLICATE_WINDOW: \
         an event that is retried later may then be stored twice"),
    refusal("10052", "no-ack", "stream.subjects has subjects of NATS itself, and such a stream could acknowledge nothing",
        "$ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate   # the subjects of the events"),
    refusal("10052", "overlaps with", "two of stream.subjects overlap",
        "$ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate   # without the narrower one"),
    refusal("10052", "invalid subject", "one of stream.subjects is no subject",
        "$ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate"),
    refusal("10052", "", "the server does not accept a setting of the stream",
        "$ outboxd config print   # shows stream.*; correct what the server names\n$ outboxd migrate"),
    refusal(OVERLAP, "", "another stream takes some of stream.subjects",
        "$ nats stream ls --subject '<subject>'   # names it\n\
         $ NATS_CLUSTER_ID='<its name>' outboxd check   # if the events go there, or\n\
         $ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate   # subjects that no other stream has"),
    refusal("10074", "", "a single server keeps one copy", "$ OUTBOXD_STREAM__REPLICAS=1 outboxd migrate"),
    refusal("10076", "", "JetStream is off on the server",
        "nats-server.conf: jetstream { store_dir: /var/lib/nats }\n$ outboxd migrate"),
    refusal(SIZE_REQUIRED, "", "the account requires a limit of bytes for every stream",
        "$ OUTBOXD_STREAM__MAX_BYTES=1073741824 outboxd migrate   # 1 GiB, or what the account has left"),
    refusal(NO_TIER, "", "the account has no limits for streams with this number of copies",
        "$ nats account info   # shows for which it has: R1, R3\n\
         $ OUTBOXD_STREAM__REPLICAS=3 outboxd migrate   # or that number"),
    refusal(TOO_LARGE, "", "stream.max_bytes is above the account's limit for one stream",
        "$ nats account info   # shows the limit\n\
         $ OUTBOXD_STREAM__MAX_BYTES=268435456 outboxd migrate   # 256 MiB, or the limit"),
];

/// What [`NO_STORAGE`] means for an account that has memory alone.
static NO_DISK: Refusal = refusal(
    NO_STORAGE,
    "",
    "the account has no storage on disk",
    "$ OUTBOXD_STREAM__STORAGE=memory outboxd migrate   # a restart of the server loses the stream",
);

/// A refusal that is not in the table.
static OTHER: Refusal = refusal(
    "",
    "",
    "JetStream refused it for a reason that outboxd does not know",
    "$ outboxd migrate --print   # shows what was asked for; the server's log may say more\n\
     $ outboxd migrate",
);

/// The refusals with a code, one for each meaning.
pub(crate) fn refusals(code: &str) -> impl Iterator<Item = &'static Refusal> {
    REFUSALS.iter().filter(move |refusal| refusal.code == code)
}

/// Every refusal.
pub(crate) fn all() -> &'static [Refusal] {
    REFUSALS
}

/// The refusal with this code and text.
pub(super) fn refused(code: u64, text: &str) -> &'static Refusal {
    let code = code.to_string();
    let is_it = |refusal: &&Refusal| refusal.code == code && text.contains(refusal.text);
    REFUSALS.iter().find(is_it).unwrap_or(&OTHER)
}

/// The stream as `outboxd migrate` would create it. It has no limits unless the settings give some;
/// a full stream refuses events, which wait in the outbox, and deletes none.
pub(crate) fn wanted(stream: &StreamConfig) -> Config {
    let (cluster, tags) = (stream.placement_cluster.clone(), stream.placement_tags.clone());
    let is_placed = cluster.is_some() || !tags.is_empty();

    Config {
        name: stream.name.clone(),
        subjects: stream.subjects.clone(),
        duplicate_window: stream.duplicate_window,
        num_replicas: stream.replicas,
        max_age: stream.max_age,
        max_bytes: stream.max_bytes.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        discard: DiscardPolicy::New,
        storage: match stream.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        compression: match stream.compression {
            Compression::None => None,
            Compression::S2 => Some(Compressed::S2),
        },
        placement: is_placed.then_some(Placement { cluster, tags }),
        metadata: HashMap::from([("created_by".to_owned(), "outboxd".to_owned())]),
        ..Config::default()
    }
}

/// The refusal that the account's limits foresee. What a server or a cluster has is seen only once
/// the stream is asked for.
pub(super) fn foreseen(account: &Account, stream: &StreamConfig) -> Option<&'static Refusal> {
    let tier = account.tiers.get(&format!("R{}", stream.replicas));
    let (limits, streams, reserved) = match tier {
        Some(tier) => (tier.limits, tier.streams, [tier.reserved_storage, tier.reserved_memory]),
        None => {
            let reserved = [account.reserved_storage, account.reserved_memory];
            (account.limits, account.streams, reserved)
        }
    };

    let reached = |limit: Option<i64>, needed: u64| {
        limit.and_then(|limit| u64::try_from(limit).ok()).is_some_and(|limit| needed > limit)
    };
    let in_all = |reserved: u64| {
        // Without a size of its own, the stream is refused by an account that has nothing at all.
        let own = stream.max_bytes.unwrap_or(1);
        reserved.saturating_add(own.saturating_mul(stream.replicas as u64))
    };
    let [on_disk, in_memory] = reserved;
    let (room, largest, needed, code) = match stream.storage {
        Storage::File => {
            (limits.max_storage, limits.storage_max_stream_bytes, in_all(on_disk), NO_STORAGE)
        }
        Storage::Memory => {
            (limits.max_memory, limits.memory_max_stream_bytes, in_all(in_memory), NO_MEMORY)
        }
    };

    let largest = largest.filter(|largest| *largest > 0);
    let has_no_disk = limits.max_storage == Some(0) && limits.max_memory != Some(0);
    let code = if !account.tiers.is_empty() && tier.is_none() {
        NO_TIER
    } else if limits.max_bytes_required && stream.max_bytes.is_none() {
        SIZE_REQUIRED
    } else if reached(limits.max_streams.filter(|most| *most > 0), streams as u64 + 1) {
        TOO_MANY
    } else if reached(largest, stream.max_bytes.unwrap_or(0)) {
        TOO_LARGE
    } else if stream.storage == Storage::File && has_no_disk {
        return Some(&NO_DISK);
    } else if reached(room, needed) {
        code
    } else {
        return None;
    };

    refusals(code).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config as Settings, Sources};

    #[test]
    fn a_code_and_its_text_give_lines_to_paste() {
        for (code, text, meaning) in [
            (10113, "account requires a stream config to have max bytes set", "requires a limit"),
            (10052, "duplicates window can not be larger then server limit of 1m0s", "above"),
            (10052, "subject \"a.*\" overlaps with \"a.b\"", "two of stream.subjects"),
            (10052, "capturing all subjects requires no-ack to be true", "NATS itself"),
            (10052, "something new", "does not accept a setting"),
        ] {
            let refusal = refused(code, text);
            assert!(refusal.meaning.contains(meaning), "{text}: {}", refusal.meaning);
        }
        assert!(refused(19_999, "something new").meaning.contains("does not know"));

        for refusal in REFUSALS.iter().chain([&NO_DISK, &OTHER]) {
            assert!(refusal.remedy.contains("outboxd migrate"), "{}: no circle", refusal.code);
        }
    }
    fn foresees(limits: &str, tiers: &str, settings: &[(&str, &str)]) -> Option<&'static str> {
        let named = [("MONGODB_URI", "mongodb://127.0.0.1/shop"), ("NATS_CLUSTER_ID", "SHOP")];
        let env = named.iter().chain(settings);
        let env = env.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let config = Settings::load(&Sources { env, ..Sources::default() }).expect("settings");

        let limits = format!(
            r#"{{"max_memory":-1,"max_storage":-1,"max_streams":-1,"max_consumers":-1,
            "max_ack_pending":-1,"memory_max_stream_bytes":-1,"storage_max_stream_bytes":-1,
            "max_bytes_required":false{limits}}}"#
        );
        let account = format!(
            r#"{{"memory":0,"storage":0,"reserved_memory":0,"reserved_storage":500,"streams":2,
            "consumers":0,"limits":{limits},"api":{{"total":0,"errors":0}},"tiers":{{{tiers}}}}}"#
        );
        let account = serde_json::from_str::<serde_json::Value>(&account).expect("an object");
        let account = serde_json::from_value(account).expect("an account");
        foreseen(&account, &config.stream).map(|refusal| refusal.code)
    }

    #[test]
    fn what_the_accounts_limits_refuse_is_foreseen() {
        let size = |bytes| [("OUTBOXD_STREAM__MAX_BYTES", bytes)];
        for (limits, settings, code) in [
            ("", &[][..], None),
            (r#","max_bytes_required":true"#, &[], Some("10113")),
            (r#","max_bytes_required":true"#, &size("1000"), None),
            (r#","max_streams":2"#, &[], Some("10027")),
            (r#","max_streams":3"#, &[], None),
            (r#","max_storage":1000"#, &size("600"), Some("10047")),
            (r#","max_storage":1100"#, &size("600"), None),
            (r#","max_storage":0"#, &[], Some("10047")),
            (r#","max_memory":0"#, &[("OUTBOXD_STREAM__STORAGE", "memory")], Some("10028")),
            (r#","storage_max_stream_bytes":100"#, &size("600"), Some("10122")),
            (r#","storage_max_stream_bytes":100"#, &[], None),
        ] {
            assert_eq!(foresees(limits, "", settings), code, "{limits} {settings:?}");
        }
    }

    #[test]
    fn limits_by_the_number_of_copies_are_those_of_that_number() {
        let tier = r#""R3":{"memory":0,"storage":0,"reserved_memory":0,"reserved_storage":0,
            "streams":0,"consumers":0,"limits":{"max_memory":0,"max_storage":1000,"max_streams":1,
            "max_consumers":-1,"max_ack_pending":-1,"memory_max_stream_bytes":-1,
            "storage_max_stream_bytes":-1,"max_bytes_required":true}}"#;
        let three = ("OUTBOXD_STREAM__REPLICAS", "3");
        assert_eq!(foresees("", tier, &[]), Some("10120"));
        assert_eq!(foresees("", tier, &[three]), Some("10113"));
    }
}
