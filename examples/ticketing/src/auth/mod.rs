//! The auth service: owns the users, and gives each a token that the other services trust.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/users/signup` `{email, password}` | 201, the user and a session; 400 if they can't be used |
//! | `POST /api/users/signin` `{email, password}` | 200, the user and a session; 401 if they don't go together |
//! | `POST /api/users/signout` | 200 and no session any more |
//! | `GET /api/users/currentuser` | 200 and `{currentUser}`, which is `null` without a session |
//!
//! A session is a JWT: the http-only cookie `session` for browsers, and `token` in the body for
//! scripts, which send it as `Authorization: Bearer …`. A script in a page can't read the cookie.
//! Signing out makes a browser forget its token; a copy of the token is good until it expires.
//!
//! # What a stranger learns
//!
//! Whether an address has an account isn't told by sign-in: the answer, the work it takes and the
//! limit on attempts are the same for an address that nobody has. Sign-up can't hide it without
//! sending mail. It says no more than that these can't be used, it counts as an attempt, and with
//! the right password it is a sign-in.
//!
//! After ten wrong passwords for one address within a quarter of an hour, every attempt on it gets
//! 429 until that time is over, the right password too. A limit for each client is the job of what
//! stands in front of the service and knows the clients' addresses.
//!
//! Emits `user:created`; listens to nothing.

mod attempts;
mod passwords;
mod routes;
mod store;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::service::{self, Service};

/// Runs the service until it is stopped.
#[tokio::main]
pub async fn main() -> ExitCode {
    service::exit("auth", run().await)
}

async fn run() -> Result<(), Failure> {
    let service = Service::connect("auth", &[store::USERS, attempts::ATTEMPTS]).await?;
    let auth = routes::Auth {
        users: store::Store::open(&service.database).await?,
        attempts: attempts::Attempts::open(&service.database).await?,
        passwords: passwords::Passwords::new()?,
        signer: service.signer(),
        verifier: service.verifier(),
        cookie_secure: service.settings.cookie_secure,
    };
    service.answer(routes::routes(auth)).await
}
