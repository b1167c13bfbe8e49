//! A client for the admin endpoint of a relay.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use crate::config::AdminConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::choose_tls;

/// Longest wait for an answer. The endpoint answers without asking a server.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A relay's admin endpoint.
#[derive(Debug)]
pub(crate) struct Admin {
    client: Client,
    url: String,
    token: Option<SecretString>,
}

impl Admin {
    /// Uses `url`, or `admin.listen` of the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when `url` is not a URL.
    pub(crate) fn new(config: &AdminConfig, url: Option<&str>) -> Result<Self> {
        choose_tls();
        let client = Client::builder().timeout(TIMEOUT).build();
        let client = client
            .map_err(|error| Error::with_source(ErrorKind::Internal, "no HTTP client", error))?;
        let mut address = *config.listen.get();

        if address.ip().is_unspecified() {
            let loopback: [IpAddr; 2] =
                [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
            address.set_ip(loopback[usize::from(address.is_ipv6())]);
        }

        let url = url.map_or_else(
            || format!("http://{address}"),
            |url| url.trim_end_matches('/').to_owned(),
        );

        if !reqwest::Url::parse(&url).is_ok_and(|url| ["http", "https"].contains(&url.scheme())) {
            let message = format!("--admin {url}: is not a URL such as http://127.0.0.1:9464");
            return Err(Error::new(ErrorKind::Usage, message));
        }

        Ok(Self { client, url, token: config.token.clone() })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the body of the answer, or a few words on why there is none.
    pub(crate) async fn get(&self, path: &str) -> std::result::Result<String, String> {
        match self.ask(path).await? {
            (status, _) if !status.is_success() => Err(format!("answers {status}")),
            (_, body) => Ok(body),
        }
    }

    /// Returns the body of an answer that is also given when the relay is not ready.
    pub(crate) async fn state(&self, path: &str) -> std::result::Result<String, String> {
        Ok(self.ask(path).await?.1)
    }

    async fn ask(&self, path: &str) -> std::result::Result<(StatusCode, String), String> {
        let mut request = self.client.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }

        let answer = request.send().await.map_err(|_| "does not answer".to_owned())?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err("rejects this admin.token".to_owned());
        }

        let body = answer.text().await.map_err(|_| "does not answer".to_owned())?;
        Ok((status, body))
    }
}
