//! Passwords as Argon2id hashes (19 MiB, two passes: what OWASP recommends), each with its own salt.

use std::sync::Arc;

use argon2::password_hash::{Error, PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::failure::Failure;

/// Hashes that are computed at once; each takes 19 MiB and a processor for some 20 ms.
const AT_ONCE: usize = 4;

#[derive(Clone)]
pub(crate) struct Passwords {
    /// The hash of no password, for users that don't exist: it takes as long to compare with.
    nobodys: Arc<str>,
    at_once: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self, Failure> {
        let nobodys = hash(&format!("{:x}", rand::random::<u128>()))?;
        Ok(Self { nobodys: nobodys.into(), at_once: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    pub(crate) async fn hash(&self, password: String) -> Result<String, Failure> {
        let _turn = self.at_once.acquire().await?;
        Ok(spawn_blocking(move || hash(&password)).await??)
    }

    /// Whether `password` is the one of `hash`; without a hash it isn't, and that takes as long.
    pub(crate) async fn is_of(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Failure> {
        let _turn = self.at_once.acquire().await?;
        let is_someone = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys.to_string());

        let is_it = spawn_blocking(move || {
            let hash = PasswordHash::new(&hash)?;
            match Argon2::default().verify_password(password.as_bytes(), &hash) {
                Ok(()) => Ok(true),
                Err(Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            }
        });

        Ok(is_it.await?? && is_someone)
    }
}

fn hash(password: &str) -> Result<String, Error> {
    Ok(Argon2::default().hash_password(password.as_bytes())?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_of_a_hash_fits_and_no_two_hashes_are_the_same() {
        let passwords = Passwords::new().unwrap();
        let word = || "correct horse".to_owned();
        let [one, two] =
            [passwords.hash(word()).await.unwrap(), passwords.hash(word()).await.unwrap()];

        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert!(passwords.is_of(word(), Some(one.clone())).await.unwrap());
        assert!(!passwords.is_of("correct horsf".to_owned(), Some(one)).await.unwrap());
        assert!(!passwords.is_of(word(), None).await.unwrap());
        assert!(passwords.is_of(word(), Some("no hash".to_owned())).await.is_err());
    }
}
