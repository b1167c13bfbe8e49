//! Who asks: a user is a JWT signed with `JWT_KEY` (HS256), its subject (`sub`) is the user's id,
//! and it expires (`exp`). A browser sends it as a cookie, a script as a bearer token.

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderName};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::hs256;

/// The cookie's name.
pub const SESSION: &str = "session";
/// How long a token is valid, in seconds: a day.
pub const SESSION_SECONDS: u64 = 24 * 3600;
/// Longest user id, in bytes: it is stored with each record.
const MAX_USER_BYTES: usize = 128;
/// How far the clocks of issuer and service may differ, in seconds.
const LEEWAY: u64 = 5;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970.
    exp: u64,
}

/// Checks tokens.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl Verifier {
    pub fn new(key: &str) -> Self {
        hs256::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { key: DecodingKey::from_secret(key.as_bytes()), validation }
    }

    /// The user's id, or what is wrong with the token; never a part of it.
    pub fn user(&self, token: &str) -> Result<String, &'static str> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(
            |error| {
                use jsonwebtoken::errors::ErrorKind;
                match error.kind() {
                    ErrorKind::ExpiredSignature => "the token has expired",
                    ErrorKind::InvalidSignature => "the token's signature is not ours",
                    ErrorKind::MissingRequiredClaim(_) => "the token needs the claims sub and exp",
                    _ => "the token is not a valid JWT with sub and exp",
                }
            },
        )?;
        match claims.claims.sub.len() {
            1..=MAX_USER_BYTES => Ok(claims.claims.sub),
            _ => Err("the token's sub is not a user id of 1 to 128 bytes"),
        }
    }

    /// The user who sent a request with these headers. A bearer token comes before a cookie.
    pub fn asks(&self, headers: &HeaderMap) -> Result<String, &'static str> {
        let token = match text(headers, AUTHORIZATION) {
            Some(given) => bearer(given),
            None => session(headers),
        };
        let token = token.ok_or("sign in, or send your token as `Authorization: Bearer …`")?;
        self.user(token)
    }
}

/// Makes tokens.
#[derive(Clone)]
pub struct Signer(EncodingKey);

impl Signer {
    pub fn new(key: &str) -> Self {
        hs256::install();
        Self(EncodingKey::from_secret(key.as_bytes()))
    }

    /// A token for `user`.
    pub fn sign(&self, user: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let exp = jsonwebtoken::get_current_timestamp() + SESSION_SECONDS;
        let claims = Claims { sub: user.to_owned(), exp };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.0)
    }
}

fn bearer(given: &str) -> Option<&str> {
    let (scheme, token) = given.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).map(str::trim);
    pairs.find_map(|pair| pair.strip_prefix(SESSION)?.strip_prefix('='))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}
