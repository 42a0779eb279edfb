//! The front door: the only room that knows HTTP's framework.
//!
//! [`serve`] accepts connections and bounds what each may cost, [`tls`] holds the certificate, [`sendfile`] is how a file
//! leaves. [`routes`] is the table, `dispatch` turns a request line into an
//! [`Operation`](crate::oci::Operation) and hands it to `pull`, `push` or `list`. Those pass `gate`, which decides who
//! may, call one method of a repository, and translate back. `api` is for the command line, whose end of it is [`client`]. `error` is the one place where a failure becomes a status,
//! [`origin`] the one that says where a request comes from.

mod answer;
mod api;
mod audit;
mod backup;
mod body;
mod byteranges;
mod call;
mod challenge;
pub mod client;
mod credentials;
mod dispatch;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod gc;
pub mod healthcheck;
pub(crate) mod image_text;
mod list;
pub mod origin;
mod prefetch;
mod probes;
mod pull;
mod pulse;
mod push;
mod resolve;
pub mod routes;
pub mod sendfile;
pub mod serve;
mod shed;
mod shield;
pub mod site;
pub mod tls;
mod token;
mod tokens;
mod verify;

use std::fmt;

use http::HeaderMap;

/// The header that carries a request's id.
const REQUEST_ID: &str = "x-request-id";

/// What a request is called in the answer, the log and an error.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The client's, when it is sane; else a new one. It ends up in headers and logs, so only plain letters, digits and
    /// `.`, `_`, `-` are taken over, and no more than 128 of them.
    fn of(headers: &HeaderMap) -> Self {
        let sane = |text: &&str| {
            (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let given = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(sane);
        given.map_or_else(
            || Self(uuid::Uuid::new_v4().simple().to_string()),
            |text| Self(text.to_owned()),
        )
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
