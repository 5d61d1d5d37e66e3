//! The control plane as its clients see it: kubectl of several versions, kube-rs, raw HTTP.

mod access;
mod cluster;
mod crash;
mod ephemeral_containers;
mod job_templates;
mod kube_rs;
mod lists;
mod node_streams;
mod pull_secrets;
mod tutorial_commands;
mod verbs;
mod watches;
