//! Connection strings as other drivers' services have them, and as people type them.

use super::*;

const BASE: &str = "mongodb://u:hun%40ter2@a:1,b:2/shop?replicaSet=rs0";

fn mistakes_of(uri: &str) -> String {
    let mistakes = read(uri).map(|_| ()).unwrap_err().join("\n");
    for secret in ["hun%40ter2", "hun@ter2", "hunter2", "hun", "ter2"] {
        assert!(!mistakes.contains(secret), "{uri}: {mistakes}");
    }
    mistakes
}

#[test]
fn options_of_other_drivers_are_left_out_and_named() {
    let others = "uuidRepresentation=standard&compressors=zstd,snappy&waitQueueTimeoutMS=9&\
                  useUnifiedTopology=true&3t.uriVersion=3&tlsInsecure=true&tls=true";
    let uri = read(&format!("{BASE}&{others}"))
        .map_err(|mistakes| mistakes.join("\n"))
        .expect("a URI that can be used");
    assert_eq!(uri.text, format!("{BASE}&tlsInsecure=true&tls=true"));
    assert_eq!(
        uri.warnings,
        [
            "outboxd ignores these options of other drivers: uuidRepresentation, \
             compressors, waitQueueTimeoutMS, useUnifiedTopology, 3t.uriVersion",
            "tlsInsecure: the server's certificate is not verified"
        ]
    );

    let plain = read(BASE).map_err(|mistakes| mistakes.join("\n")).expect("a URI that can be used");
    assert_eq!((plain.text.as_str(), plain.warnings.len()), (BASE, 0));
}

#[test]
fn what_changes_nothing_for_a_relay_costs_one_warning() {
    for option in [
        "uuidRepresentation=csharpLegacy",
        "compressors=zlib",
        "useUnifiedTopology=true",
        "auto_reconnect=true",
        "waitQueueSize=9",
        "maxLifeTimeMS=9",
        "serverSelectionTryOnce=false",
        "wtimeout=1000",
        "j=true",
        "connect=automatic",
        "promoteValues=false",
        "tlsDisableOCSPEndpointCheck=true",
        "3t.databases=admin",
    ] {
        let uri = read(&format!("{BASE}&{option}")).map_err(|mistakes| mistakes.join("\n"));
        let uri = uri.expect("a URI that can be used");
        let name = option.split('=').next().expect("a name");
        assert_eq!(uri.text, BASE);
        assert_eq!(
            uri.warnings,
            [format!("outboxd ignores these options of other drivers: {name}")]
        );
    }
}

#[test]
fn what_the_driver_refuses_is_named_by_its_option() {
    for (options, names) in [
        ("replicaSte=rs0", &["replicaSte", "similar name exists: replicaset"][..]),
        ("connectTimeoutMS=soon", &["connectTimeoutMS", "non-negative integer"]),
        ("retryWrites=yes&maxPoolSize=many", &["retryWrites", "maxPoolSize"]),
        ("socketTimeoutMS=30000", &["socketTimeoutMS", "not supported"]),
        ("timeoutMS=30000", &["timeoutMS"]),
        ("maxPoolSize=0", &["maxPoolSize", "cannot specify maxPoolSize=0"]),
        ("heartbeatFrequencyMS=5", &["heartbeatFrequencyMS"]),
        ("directConnection=true", &["directConnection", "multiple seeds"]),
        ("loadBalanced=true", &["loadBalanced", "multiple seeds"]),
        ("authMechanism=GSSAPI", &["authMechanism"]),
        ("authMechanism=MONGODB-AWS", &["authMechanism"]),
        ("tls=false&tlsCAFile=/ca", &["tlsCAFile"]),
        ("tlsAllowInvalidHostnames=true", &["tlsAllowInvalidHostnames"]),
        ("w=0&journal=true", &["journal"]),
        ("readPreferenceTags=a:b", &["readPreferenceTags"]),
        ("maxStalenessSeconds=1&readPreference=secondary", &["maxStalenessSeconds"]),
        ("retryReads=true&retryReads=true", &["retryReads", "repeated"]),
        ("srvMaxHosts=2", &["srvMaxHosts"]),
        ("proxyHost=proxy", &["proxyHost"]),
        ("readPreference=hun%40ter2", &["readPreference"]),
        ("connect=direct", &["connect", "directConnection=true"]),
        ("tls", &["the option tls has no value"]),
        ("w=1;journal=true", &["another option follows w without an &"]),
        ("w=1?journal=true", &["another option follows w without an &"]),
        ("=1", &["name=value"]),
        ("ssl=true&tls=false", &["the option ssl"]),
        ("authMechanism=MONGODB-CR", &["authMechanism", "MONGODB-CR"]),
        ("connectTimeout=5s&ssl_ca_certs=/ca", &["connectTimeoutMS", "tlsCAFile"]),
        ("proxyHost=a&proxyPassword=hunter2", &["proxyHost", "proxyPassword"]),
        ("tlsCertificateKeyFilePassword=hunter2", &["tlsCertificateKeyFilePassword"]),
        ("zzz=hunter2", &["zzz: it knows no such option"]),
    ] {
        let mistakes = mistakes_of(&format!("{BASE}&{options}"));
        for name in names {
            assert!(mistakes.contains(name), "{options}: {name:?} in {mistakes}");
        }
    }
}

#[test]
fn a_base_that_cannot_be_read_reveals_no_password() {
    for (password, named) in [
        ("hun@ter2", "write @ as %40"),
        ("hun/ter2", "write / as %2F"),
        ("12/ter2", "write / as %2F"),
        ("hun?ter2", "write ? as %3F"),
        ("12?hun=ter2", "write ? as %3F"),
        ("hun?ter2=12&hun=1", "write ? as %3F"),
        ("hun%ter2", "write % as %25"),
        ("hunter%4", "write % as %25"),
        ("hun:ter2", "write : as %3A"),
        ("hun#ter2", "write # as %23"),
        ("hun[ter2]", "write [ as %5B, ] as %5D"),
        ("hun@ter2/hun:ter2%40", "write @ as %40, / as %2F, : as %3A"),
        ("hun@b?ter2=1", "write @ as %40, ? as %3F"),
    ] {
        for place in ["h", "h:1/shop", "h/shop?replicaSet=rs0", "h/shop?replicaSet=rs0&appName=a@b"]
        {
            let uri = format!("mongodb://u:{password}@{place}");
            let mistakes = mistakes_of(&uri);
            assert!(mistakes.contains("not percent-encoded"), "{uri}: {mistakes}");
            // An @ among the options leaves the end of the password open.
            let is_open = password.contains('?') && place.contains("a@b");
            assert!(mistakes.contains(named) || is_open, "{uri}: {named:?} in {mistakes}");
        }
    }
    let at_of_option = mistakes_of("mongodb://host/shop?appName=a@b&replicaSte=rs0");
    assert!(at_of_option.contains("in an option, @ as %40"), "{at_of_option}");
    assert!(mistakes_of("mongodb://host/shop?appName=a%40b&replicaSte=rs0").contains("replicaSte"));
    assert!(mistakes_of("mongodb://team@corp:hunter2@host/shop").contains("write @ as %40"));

    for (uri, part) in [
        ("postgres://u:hunter2@db/shop", "is not a connection string"),
        ("hunter2", "is not a connection string"),
        ("\"mongodb://u:hunter2@host/shop\"", "quotes or spaces around it"),
        (" mongodb://u:hunter2@host/shop", "quotes or spaces around it"),
        ("mongodb+srv://u:<password>@c.example.com/shop", "<password> that nothing has replaced"),
        ("mongodb://${USER}:${PASS}@host/shop", "${…} that nothing has replaced"),
        ("mongodb://:hunter2@host/shop", "no user before the @"),
        ("mongodb://u:hunter2@/shop", "its hosts"),
        ("mongodb://u:hunter2@host:99999/shop", "its hosts"),
        ("mongodb://u:hunter2@host/sh op", "its database"),
        ("mongodb://u:hunter2@host/shop&replicaSet=rs0", "write ? before the first"),
        ("mongodb://u:hunter2@host/shop?replicaSet=", "replicaSet has no value"),
        ("mongodb+srv://u:hunter2@host:27017/shop", "a port cannot be specified"),
        ("mongodb+srv://u:hunter2@a.example.com,b.example.com/shop", "exactly one host"),
        ("mongodb://u@host/shop", "a user without a password"),
        ("mongodb://u:hunter2@host/shop?authMechanism=MONGODB-X509", "authMechanism"),
    ] {
        let mistakes = mistakes_of(uri);
        assert!(mistakes.contains(part), "{uri}: {part:?} in {mistakes}");
    }
}

#[test]
fn names_are_not_looked_up() {
    for uri in [
        "mongodb+srv://u:p@cluster0.example.invalid/shop?srvServiceName=db",
        "mongodb+srv://u:p@cluster0.example.invalid/shop?retryWrites=true&w=majority&appName=a",
        "mongodb://nowhere.invalid/shop",
        "mongodb://u:p@%2Ftmp%2Fmongodb.sock/shop",
        "mongodb://host/shop?authMechanism=MONGODB-X509&tls=true",
        "mongodb://u:p@host/shop?appName=team@corp&readPreferenceTags=dc:ny&readPreferenceTags=&\
         readPreference=nearest",
        "mongodb://u:a b&c=d;e,f<g>$h@host/shop",
    ] {
        assert!(read(uri).is_ok(), "{uri}: {}", mistakes_of(uri));
    }
}

#[test]
fn a_percent_sign_before_any_character_is_refused() {
    for password in ["50%€", "%é1", "1%", "%%", "%\u{10348}", "%1€"] {
        let reason = read(&format!("mongodb://u:{password}@a/shop")).map(|_| ()).unwrap_err();
        assert!(reason.concat().contains("percent-encoded"), "{password}: {reason:?}");
    }
    assert!(read("mongodb://u:50%25€@a/shop").is_ok());
}
