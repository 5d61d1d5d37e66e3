//! Work that several want at the same time is done once. Whoever waits for it drives it; it ends
//! unfinished when nobody waits any more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// The work under way, by what makes two the same. `A` is what all who share one see of it.
pub(crate) struct SharedWork<K, A, T>(Mutex<HashMap<K, Running<A, T>>>);

struct Running<A, T> {
    done: WeakShared<BoxFuture<'static, T>>,
    about: A,
}

/// One part in a work; the work ends when the last part is dropped.
pub(crate) struct Part<A, T> {
    pub(crate) done: Shared<BoxFuture<'static, T>>,
    pub(crate) about: A,
    /// Whether it was begun for this part.
    pub(crate) is_new: bool,
}

impl<K, A, T> Default for SharedWork<K, A, T> {
    fn default() -> Self {
        SharedWork(Mutex::default())
    }
}

impl<K: Eq + Hash, A: Clone, T: Clone> SharedWork<K, A, T> {
    /// A part in the work of `key`; `make` begins one if there is none. Nobody else's look comes
    /// in between.
    pub(crate) fn join_or_begin<W>(&self, key: K, make: impl FnOnce() -> (A, W)) -> Part<A, T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, running| running.done.upgrade().is_some());
        if let Some(running) = known.get(&key)
            && let Some(done) = running.done.upgrade()
            // What has ended is no work to join, though others may not have seen its end yet.
            && done.peek().is_none()
        {
            return Part { done, about: running.about.clone(), is_new: false };
        }
        let (about, work) = make();
        let done = work.boxed().shared();
        if let Some(weak) = done.downgrade() {
            known.insert(key, Running { done: weak, about: about.clone() });
        }
        Part { done, about, is_new: true }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    type Numbers = SharedWork<&'static str, u8, u8>;

    /// Work that answers its own number.
    fn ready(number: u8) -> impl FnOnce() -> (u8, std::future::Ready<u8>) {
        move || (number, std::future::ready(number))
    }

    /// Work that never ends, and whether it was given up.
    fn endless(number: u8) -> (impl FnOnce() -> (u8, BoxFuture<'static, u8>), impl Fn() -> bool) {
        let work = Arc::new(AtomicBool::new(false));
        let given_up = Arc::clone(&work);
        let guard = OnDrop(work);
        let make = move || {
            let work = async move {
                let _guard = guard;
                std::future::pending().await
            };
            (number, work.boxed())
        };
        (make, move || given_up.load(Ordering::SeqCst))
    }

    struct OnDrop(Arc<AtomicBool>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn those_who_want_the_same_at_once_share_one_work() {
        let (end, ended) = oneshot::channel();
        let numbers = Numbers::default();
        let first = numbers.join_or_begin("a", || (1, async { ended.await.unwrap_or_default() }));
        let second = numbers.join_or_begin("a", ready(2));
        let other = numbers.join_or_begin("b", ready(3));
        assert_eq!([first.is_new, second.is_new, other.is_new], [true, false, true]);
        assert_eq!([first.about, second.about, other.about], [1, 1, 3]);
        assert_eq!(other.done.await, 3);
        end.send(7).expect("it waits");
        assert_eq!(tokio::join!(first.done, second.done), (7, 7));
    }

    #[tokio::test]
    async fn work_outlives_its_beginner_and_ends_with_its_last_part() {
        let numbers = Numbers::default();
        let (make, is_given_up) = endless(1);
        let first = numbers.join_or_begin("a", make);
        let second = numbers.join_or_begin("a", ready(2));
        drop(first);
        assert!(!is_given_up());
        drop(second);
        assert!(is_given_up());
        assert!(numbers.join_or_begin("a", ready(3)).is_new);
    }

    #[tokio::test]
    async fn work_that_has_ended_is_not_joined() {
        let numbers = Numbers::default();
        let first = numbers.join_or_begin("a", ready(1));
        let unaware = first.done.clone();
        assert_eq!(first.done.await, 1);
        let second = numbers.join_or_begin("a", ready(2));
        assert_eq!((second.is_new, second.done.await, unaware.await), (true, 2, 1));
    }
}
