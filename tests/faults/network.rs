//! The way there: addresses, redirects, credentials, headers.

mod asking;
mod way_out;
