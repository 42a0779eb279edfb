//! The `entrepot` command.
fn main() {}
