//! Runs the API server alone, for trying it with kubectl.

fn main() {}
