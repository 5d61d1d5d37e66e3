//! Pure pod life cycle: state, phase, conditions, status, restarts, probes.

pub(crate) mod phase;
pub(crate) mod probes;
pub(crate) mod restart;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod steps;
