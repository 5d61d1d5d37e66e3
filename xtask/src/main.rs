//! Project tasks: CI, benches, demo data.
fn main() {}
