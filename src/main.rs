//! The `ailora` command.
fn main() {}
