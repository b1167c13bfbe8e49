//! A network between the peer and NATS: the proxy of the tests.

#[allow(dead_code, reason = "the tests do more with it")]
#[path = "../tests/support/proxy.rs"]
mod of_the_tests;

pub(crate) use self::of_the_tests::{Proxy, Toxic};
