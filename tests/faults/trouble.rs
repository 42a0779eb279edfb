//! Upstreams that refuse, fail, or ask for patience.
