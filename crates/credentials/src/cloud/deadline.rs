//! An end for a whole exchange, however many requests, tries and pauses it is made of
//! (cloud-credentials.md section 11).

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Performer, ProgramOutput, Request, Response, RunError, SendError};
use crate::Secret;

/// How long the exchange with one cloud may take.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(20);

/// A [`Performer`] that sends nothing, and waits for no answer, beyond a moment.
pub(super) struct Deadline<'a> {
    performer: &'a dyn Performer,
    /// By [`Performer::uptime`].
    ends: Duration,
}

impl<'a> Deadline<'a> {
    pub(super) fn new(performer: &'a dyn Performer, time: Duration) -> Self {
        Self { performer, ends: performer.uptime().saturating_add(time) }
    }
}

impl Performer for Deadline<'_> {
    fn time_left(&self) -> Duration {
        self.ends.saturating_sub(self.performer.uptime())
    }

    fn send(&self, request: &Request) -> Result<Response, SendError> {
        let left = self.time_left();
        if left.is_zero() {
            return Err(SendError::Timeout);
        }
        if request.timeout <= left {
            return self.performer.send(request);
        }
        self.performer.send(&Request { timeout: left, ..request.clone() })
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.performer.variable(name)
    }

    fn allows_endpoints(&self) -> bool {
        self.performer.allows_endpoints()
    }

    fn read_file(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        self.performer.read_file(path, bytes_max)
    }

    fn read_file_itself(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        self.performer.read_file_itself(path, bytes_max)
    }

    fn file_exists(&self, path: &Path) -> bool {
        self.performer.file_exists(path)
    }

    fn run(
        &self,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<ProgramOutput, RunError> {
        // A program may ask a person: it has a limit of its own.
        self.performer.run(program, arguments, timeout)
    }

    fn rsa_key(&self) -> Result<Secret, String> {
        self.performer.rsa_key()
    }

    fn uptime(&self) -> Duration {
        self.performer.uptime()
    }

    fn now(&self) -> SystemTime {
        self.performer.now()
    }

    fn pause(&self, time: Duration) {
        self.performer.pause(time);
    }

    fn random(&self) -> u64 {
        self.performer.random()
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, answer, answer_with};
    use super::super::{CloudOptions, CloudProvider, Method, RegistryHost};
    use super::*;

    const IAM: &str = "https://iam.cloud.ibm.com/identity/token";

    fn failure(world: &World) -> String {
        let host = RegistryHost::of("de.icr.io").expect("a host");
        let asked = CloudOptions::all().exchange(world, CloudProvider::Ibm, &host, None);
        asked.expect_err("a failure").to_string()
    }

    fn busy(seconds: &str) -> World {
        let busy = answer_with(503, &[("retry-after", seconds)], "{}");
        World::new().variable("ICR_APIKEY", "key").server(Method::Post, IAM, busy)
    }

    #[test]
    fn nobody_waits_beyond_the_end_of_an_exchange() {
        // cloud-credentials.md 11: no try can follow, so there is nothing to wait for.
        let world = busy("30");
        assert!(failure(&world).contains("status 503"));
        assert_eq!((world.sent.borrow().len(), world.pauses.get()), (1, 0));
        // Eight seconds fit twice.
        let world = busy("8");
        failure(&world);
        assert_eq!((world.sent.borrow().len(), world.paused.get().as_secs()), (3, 16));
        // Nine leave two seconds for the last answer.
        let world = busy("9");
        failure(&world);
        let timeouts: Vec<u64> =
            world.sent.borrow().iter().map(|request| request.timeout.as_secs()).collect();
        assert_eq!(timeouts, [20, 11, 2]);
    }

    #[test]
    fn nothing_is_waited_for_after_the_last_try() {
        let refused = || answer_with(503, &[("retry-after", "1")], "{}");
        let world = World::new()
            .variable("ICR_APIKEY", "key")
            .server(Method::Post, IAM, refused())
            .server(Method::Post, IAM, answer(503, "{}"))
            .server(Method::Post, IAM, refused());
        failure(&world);
        assert_eq!((world.sent.borrow().len(), world.pauses.get()), (3, 2));
        assert!(world.paused.get() < Duration::from_secs(2));
    }

    #[test]
    fn after_the_end_nothing_is_sent() {
        let world = World::new();
        let ended = Deadline::new(&world, Duration::ZERO);
        let request = Request::to_cloud(Method::Get, IAM);
        assert!(matches!(ended.send(&request), Err(SendError::Timeout)));
        assert!(world.sent.borrow().is_empty());
    }
}
