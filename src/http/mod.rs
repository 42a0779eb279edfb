//! The front door: the only room that knows HTTP's framework.
//!
//! [`serve`] accepts connections and bounds what each may cost, [`tls`] holds the certificate.

pub mod serve;
pub mod tls;
