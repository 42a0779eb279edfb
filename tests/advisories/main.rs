//! What went wrong in other registries, and does not here: one test for each advisory or report that is about a server of
//! this kind, with its number in its name. Each asserts what happens, not that something was called.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

mod authentication;
mod authorization;
#[path = "../registry/support.rs"]
#[allow(dead_code, clippy::print_stderr, reason = "the binary, of which a part is used here")]
mod binary;
mod cost;
mod credentials;
mod integrity;
mod members;
mod people;
mod private_addresses;
mod reading;
mod secrets;
mod supply;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// A registry process in front of this upstream, with more keys for the remote.
fn in_front_of(upstream: &support::upstream::Server, more: &str) -> binary::Registry {
    binary::Registry::start(&format!(
        "repositories: {{ hub: {{ type: remote, url: '{}', insecure: true{more} }} }}\ndefault: hub\n",
        upstream.url()
    ))
}

/// Sends these bytes as they are, and reads until the connection is closed.
fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(binary::PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
