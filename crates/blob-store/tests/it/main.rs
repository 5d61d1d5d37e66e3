//! The store as other crates and other processes see it.
