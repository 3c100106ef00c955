//! The `llavar` program.
fn main() {}
