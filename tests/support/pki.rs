//! A private certificate authority, and NATS operators: who vouches for whom, made anew for each
//! test.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair as Nkey;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::{Value, json};

/// A certificate authority that nobody knows who isn't told.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// The files of a certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
    /// Both in one, as MongoDB takes them.
    pub(crate) both: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = params("Authorities", "one of them", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA's certificate");
        Self { issuer, folder: tempfile::tempdir().expect("a folder for certificates") }
    }

    /// The file of its own certificate.
    pub(crate) fn file(&self) -> String {
        self.write("ca.pem", &self.issuer.pem())
    }

    /// For a server of these names and addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.sign(params("Servers", "one of them", names), names[0])
    }

    /// The same, but not valid after this.
    pub(crate) fn server_until(&self, names: &[&str], end: SystemTime) -> Identity {
        let mut params = params("Servers", "one of them", names);
        let end = end.duration_since(UNIX_EPOCH).expect("a time after 1970");
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        self.sign(params, "short-lived")
    }

    /// For a client called `CN=<name>,O=Shop`.
    pub(crate) fn client(&self, name: &str) -> Identity {
        let mut params = params("Shop", name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, name)
    }

    fn sign(&self, params: CertificateParams, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let key = key.serialize_pem();
        Identity {
            both: self.write(&format!("{name}.both.pem"), &format!("{cert}{key}")),
            cert: self.write(&format!("{name}.pem"), &cert),
            key: self.write(&format!("{name}.key"), &key),
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file is written");
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Identity {
    /// The block of a nats-server's configuration; `more` of its settings.
    pub(crate) fn nats(&self, more: &str) -> String {
        format!("tls {{\ncert_file: {:?}\nkey_file: {:?}\n{more}\n}}\n", self.cert, self.key)
    }
}

/// Clients are of another organisation than servers: mongod takes those of its own for members of
/// its cluster.
fn params(organisation: &str, name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("good names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A NATS operator with one account, which may use JetStream.
pub(crate) struct Operator {
    operator: Nkey,
    account: Nkey,
    /// Of the server's own: JetStream wants one.
    system: Nkey,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            operator: Nkey::new_operator(),
            account: Nkey::new_account(),
            system: Nkey::new_account(),
        }
    }

    /// The part of a nats-server's configuration; these users are turned away.
    pub(crate) fn nats(&self, revoked: &[&Nkey]) -> String {
        self.nats_denying(revoked, &[])
    }

    /// The same; users may not subscribe to these subjects.
    pub(crate) fn nats_denying(&self, revoked: &[&Nkey], denied: &[&str]) -> String {
        self.nats_of(revoked, denied, &Value::Null)
    }

    /// The same, with JetStream limits for these numbers of copies alone.
    pub(crate) fn nats_with_tiers(&self, tiers: &Value) -> String {
        self.nats_of(&[], &[], tiers)
    }

    fn nats_of(&self, revoked: &[&Nkey], denied: &[&str], tiers: &Value) -> String {
        let operator = jwt(&self.operator, &self.operator, json!({ "type": "operator" }));
        let account = |stored: i32, revoked: Value, tiers: &Value| {
            let mut limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
                "leaf": -1, "mem_storage": stored, "disk_storage": stored, "streams": stored, "consumer": stored,
            });
            if !tiers.is_null() {
                for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
                    limits[limit] = 0.into();
                }
                limits["tiered_limits"] = tiers.clone();
            }
            let permissions = json!({ "sub": { "deny": denied } });
            json!({
                "type": "account", "limits": limits, "revocations": revoked,
                "default_permissions": permissions,
            })
        };
        let revoked: serde_json::Map<_, Value> =
            revoked.iter().map(|user| (user.public_key(), (now() + 3600).into())).collect();
        let of_shop = jwt(&self.operator, &self.account, account(-1, revoked.into(), tiers));
        let of_system = jwt(&self.operator, &self.system, account(0, json!({}), &Value::Null));
        let (shop, system) = (self.account.public_key(), self.system.public_key());
        format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {shop}: {of_shop}, {system}: {of_system} }}\n"
        )
    }

    /// A credentials file for this user.
    pub(crate) fn creds(&self, user: &Nkey) -> String {
        let limits = json!({ "type": "user", "subs": -1, "data": -1, "payload": -1 });
        let (jwt, seed) = (jwt(&self.account, user, limits), user.seed().expect("a seed"));
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

/// Writes a file and puts it where another may be, at once: whoever reads there sees the one or the
/// other.
pub(crate) fn replace(path: &std::path::Path, text: &str) {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    std::fs::write(&beside, text).expect("a file is written");
    std::fs::rename(&beside, path).expect("the file is replaced");
}

/// What `issuer` says about `subject`, signed.
fn jwt(issuer: &Nkey, subject: &Nkey, mut claims: Value) -> String {
    claims["version"] = 2.into();
    let claims = json!({
        "jti": subject.public_key(), "iat": now(), "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "a name", "nats": claims,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let said =
        format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
    let signature = issuer.sign(said.as_bytes()).expect("a signature");
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}
