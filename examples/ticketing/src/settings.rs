//! A service's settings: the environment, read once at start, every mistake named at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mongodb::options::ConnectionString;

/// Where the HTTP port is when `PORT` isn't set.
const DEFAULT_PORT: u16 = 3000;
/// How long an order reserves its ticket when `ORDER_EXPIRES_AFTER` isn't set.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The longest time that `ORDER_EXPIRES_AFTER` may be.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What the environment says. Holds secrets, so it can't be printed.
pub struct Settings {
    /// `MONGODB_URI`, with the service's database in its path.
    pub mongodb_uri: String,
    /// The path of `MONGODB_URI`.
    pub database: String,
    /// `NATS_URL`
    pub nats_url: String,
    /// `NATS_CLUSTER_ID`: the stream.
    pub stream: String,
    /// `NATS_CLIENT_ID`: the pod's name.
    pub client_id: String,
    /// `JWT_KEY`
    pub jwt_key: String,
    /// `HOST` (default 127.0.0.1) and `PORT` (default 3000; 0 takes a free one).
    pub address: SocketAddr,
    /// `ORDER_EXPIRES_AFTER` (default `15m`), of the orders service: how long an order reserves
    /// its ticket.
    pub order_lifetime: Duration,
    /// `COOKIE_SECURE` (default `true`), of the auth service: whether browsers send the cookie over
    /// HTTPS only. `false` is for trying out without HTTPS.
    pub cookie_secure: bool,
}

impl Settings {
    /// Reads the settings out of `env`.
    ///
    /// # Errors
    /// One line that names every variable that is missing or wrong.
    pub fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut mistakes = Vec::new();
        let given = |name| env(name).filter(|text| !text.trim().is_empty());
        let mut need = |name| {
            given(name).unwrap_or_else(|| {
                mistakes.push(format!("{name} is not set"));
                String::new()
            })
        };

        let (mongodb_uri, nats_url) = (need("MONGODB_URI"), need("NATS_URL"));
        let (stream, client_id, jwt_key) =
            (need("NATS_CLUSTER_ID"), need("NATS_CLIENT_ID"), need("JWT_KEY"));
        let host = given("HOST").map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), |host| host.parse());
        let port = given("PORT").map_or(Ok(DEFAULT_PORT), |port| port.parse());
        let lifetime = given("ORDER_EXPIRES_AFTER").map_or(Some(DEFAULT_LIFETIME), |time| {
            let time = humantime::parse_duration(&time).ok();
            time.filter(|time| !time.is_zero() && *time <= MAX_LIFETIME)
        });
        let secure = given("COOKIE_SECURE").map_or(Ok(true), |secure| secure.parse());
        let database = match ConnectionString::parse(&mongodb_uri) {
            _ if mongodb_uri.is_empty() => String::new(),
            Ok(parsed) => parsed.default_database.unwrap_or_else(|| {
                mistakes.push("MONGODB_URI names no database in its path".to_owned());
                String::new()
            }),
            // The driver's message may repeat parts of the URI.
            Err(_) => {
                mistakes.push("MONGODB_URI is no connection string".to_owned());
                String::new()
            }
        };

        mistakes.extend(host.is_err().then(|| "HOST is no IP address".to_owned()));
        mistakes.extend(port.is_err().then(|| "PORT is no port (0 to 65535)".to_owned()));
        let wrong = "ORDER_EXPIRES_AFTER is no time such as 15m, up to 24h";
        mistakes.extend(lifetime.is_none().then(|| wrong.to_owned()));
        let wrong = "COOKIE_SECURE is neither true nor false";
        mistakes.extend(secure.is_err().then(|| wrong.to_owned()));

        match (host, port, lifetime, secure) {
            (Ok(host), Ok(port), Some(order_lifetime), Ok(cookie_secure))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    mongodb_uri,
                    database,
                    nats_url,
                    stream,
                    client_id,
                    jwt_key,
                    address: SocketAddr::new(host, port),
                    order_lifetime,
                    cookie_secure,
                })
            }
            _ => Err(mistakes.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(more: &[(&str, &str)]) -> Result<Settings, String> {
        let needed = [
            ("MONGODB_URI", "mongodb://localhost/tickets"),
            ("NATS_URL", "nats://localhost"),
            ("NATS_CLUSTER_ID", "TICKETING"),
            ("NATS_CLIENT_ID", "tickets-0"),
            ("JWT_KEY", "a key"),
        ];
        let env: HashMap<_, _> = needed.into_iter().chain(more.iter().copied()).collect();
        Settings::read(|name| env.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn an_order_lasts_a_quarter_of_an_hour_and_a_cookie_is_secure_unless_the_environment_differs() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.order_lifetime.as_secs(), settings.cookie_secure), (900, true));

        let settings = read(&[("ORDER_EXPIRES_AFTER", "20s"), ("COOKIE_SECURE", "false")]).unwrap();
        assert_eq!((settings.order_lifetime.as_secs(), settings.cookie_secure), (20, false));
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        for time in ["0s", "soon", "2d"] {
            let wrong = [("ORDER_EXPIRES_AFTER", time), ("COOKIE_SECURE", "no"), ("PORT", "x")];
            let mistakes = read(&wrong).err().unwrap();
            for name in ["ORDER_EXPIRES_AFTER", "COOKIE_SECURE", "PORT"] {
                assert!(mistakes.contains(name), "{time}: {mistakes}");
            }
        }
    }
}
