//! The way there: addresses, redirects, credentials, headers.

mod asking;
mod credentials;
mod lies;
mod redirects;
mod way_out;
