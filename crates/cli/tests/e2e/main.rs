//! End-to-end tests: the built binary, driven with the real clients, as the tutorials do it.
//!
//! They need root, and the Debian packages that `cargo xtask peers` installs. A missing client
//! fails the test that needs it; nothing is skipped.

#![expect(clippy::print_stderr, reason = "a failed test shows the end of the daemon's log")]

mod bad_input;
mod build_calls;
mod build_kills;
mod cache;
mod cloud_fake;
mod cloud_flows;
mod cloud_helper;
mod cloud_in_process;
mod cloud_moto;
mod cloud_plugin;
mod crash;
mod cri_clients;
mod durability;
mod explain_matrix;
mod image_verbs;
mod kaniko_flags;
mod kaniko_matrix;
mod kube_rs;
mod live_view;
mod machine;
mod node_images;
mod node_providers;
mod node_verbs;
mod outputs;
mod own_registry;
mod pod;
mod python;
mod real_projects;
mod registry_access_log;
mod registry_clients;
mod registry_identity;
mod registry_matrix;
mod registry_proxy;
mod sandboxes;
mod secret_sync;
mod secrets_never_appear;
mod seed_000;
mod seed_001;
mod seed_002;
mod seed_003;
mod seed_004;
