//! How long an HTTP/1 client may take for the head of a request, and for beginning the next one.
//!
//! hyper has one time limit for both: it starts a timer when it begins to wait for a head and drops
//! it when the head is complete. This timer learns from the connection whether bytes came meanwhile,
//! and becomes shorter then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection. hyper must use it for nothing but heads, with the limit for an
/// idle connection.
#[derive(Clone, Debug)]
pub(crate) struct HeadClock {
    head_time_max: Duration,
    heard: Arc<Heard>,
}

/// What came in over a connection.
#[derive(Debug, Default)]
struct Heard {
    /// Whether the first wait has begun: a new connection has no reason to be idle.
    waited: AtomicBool,
    /// Whether bytes came since the last wait began.
    bytes: AtomicBool,
}

impl HeadClock {
    pub(crate) fn new(head_time_max: Duration) -> Self {
        Self { head_time_max, heard: Arc::default() }
    }

    /// Tells that bytes came in.
    pub(crate) fn bytes_came(&self) {
        self.heard.bytes.store(true, Ordering::Relaxed);
    }

    /// Begins to wait for a head, which must have begun at `idle_end`.
    ///
    /// A head that began together with the request before it counts as begun with its next bytes.
    fn wait(&self, idle_end: Instant) -> Wait {
        let first = !self.heard.waited.swap(true, Ordering::Relaxed);
        self.heard.bytes.store(false, Ordering::Relaxed);
        let mut wait = Wait {
            clock: self.clone(),
            begun: false,
            sleep: Box::pin(tokio::time::sleep_until(idle_end.into())),
        };
        if first {
            wait.begin();
        }
        wait
    }
}

impl Timer for HeadClock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.wait(deadline))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// The wait for one head.
#[derive(Debug)]
struct Wait {
    clock: HeadClock,
    begun: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Wait {
    /// From now on the head itself is waited for.
    fn begin(&mut self) {
        self.begun = true;
        self.sleep.as_mut().reset(tokio::time::Instant::now() + self.clock.head_time_max);
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let wait = self.get_mut();
        if !wait.begun && wait.clock.heard.bytes.load(Ordering::Relaxed) {
            wait.begin();
        }
        wait.sleep.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(120);

    /// What is left of a wait, in whole seconds, after hyper looked at it.
    async fn left(wait: &mut Wait) -> u64 {
        let pending = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut *wait).poll(context).is_pending())
        });
        assert!(pending.await);
        let left = wait.sleep.deadline() - tokio::time::Instant::now();
        (left + Duration::from_millis(500)).as_secs()
    }

    #[tokio::test]
    async fn a_head_that_has_begun_has_less_time_than_an_idle_connection() {
        let clock = HeadClock::new(HEAD);
        let wait = || clock.wait(clock.now() + IDLE);
        let mut first = wait();
        assert_eq!(left(&mut first).await, 10, "a new connection is not idle");
        clock.bytes_came();
        drop(first);
        // A body, for all that this clock knows.
        clock.bytes_came();
        let mut next = wait();
        assert_eq!(left(&mut next).await, 120);
        clock.bytes_came();
        assert_eq!(left(&mut next).await, 10);
        // More bytes give no more time.
        let end = next.sleep.deadline();
        clock.bytes_came();
        left(&mut next).await;
        assert_eq!(next.sleep.deadline(), end);
    }
}
