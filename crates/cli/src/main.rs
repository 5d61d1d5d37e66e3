//! The `shipway` binary.
fn main() {}
