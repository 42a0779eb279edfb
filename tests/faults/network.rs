//! The way there: addresses, redirects, credentials, headers.

mod asking;
mod compressed;
mod credentials;
mod garbage;
mod lies;
mod redirects;
mod slow;
mod token_endpoint;
mod way_out;
