//! Outages, seen by clients.
