//! Who asks: a user is a JWT signed with `JWT_KEY` (HS256), its subject (`sub`) is the user's id,
//! and it expires (`exp`).

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

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
}

/// Makes a token for `user` that is valid for `seconds`.
pub fn sign(key: &str, user: &str, seconds: u64) -> Result<String, jsonwebtoken::errors::Error> {
    let exp = jsonwebtoken::get_current_timestamp() + seconds;
    let claims = Claims { sub: user.to_owned(), exp };
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key.as_bytes()),
    )
}
