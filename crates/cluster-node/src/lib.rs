//! Makes pods real on one machine: images, containers, volumes, probes, logs, exec, status.
//! It is one more client of the Kubernetes API and never reads control-plane storage.
//!
//! Start reading at [`Node::start`].

mod pods;
