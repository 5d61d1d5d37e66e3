//! A registry of ours beside the machine's.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::machine::shipway;

/// `shipway registry serve` on a port of its own; it goes with the test, however that ends.
pub(crate) struct OwnRegistry {
    child: Child,
    /// `host:port`.
    pub(crate) address: String,
}

impl OwnRegistry {
    /// Starts it on a state directory and waits until it serves.
    pub(crate) fn start(state: &Path, flags: &[&str]) -> Self {
        let mut child = shipway()
            .args(["registry", "serve", "--address", "127.0.0.1:0"])
            .args(flags)
            .env("SHIPWAY_STATE_DIR", state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("our own binary");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut own = Self { child, address: String::new() };
        own.address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("registry: http://").map(str::to_owned))
            .expect("it says where it is");
        own
    }
}

impl Drop for OwnRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
