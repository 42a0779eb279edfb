//! The way there: addresses, redirects, credentials, headers.
