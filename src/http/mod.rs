//! The front door: the only room that knows HTTP's framework.
//!
//! [`serve`] accepts connections and bounds what each may cost, [`tls`] holds the certificate, [`sendfile`] is how a
//! file leaves.

pub mod sendfile;
pub mod serve;
pub mod tls;
