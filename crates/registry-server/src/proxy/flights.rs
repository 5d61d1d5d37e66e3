//! Single flight: many ask, one works, all get the answer.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::tasks::Tasks;

/// Work that is under way, by key. The work has a task of its own: whoever asked for it may go.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the work of this key or begins it; nothing if it died.
    pub(crate) async fn run<F>(&self, key: K, tasks: &Tasks, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let (sender, answer) = watch::channel(None);
                    flights.insert(key.clone(), answer.clone());
                    let landing = Landing { flights: Arc::clone(&self.0), key };
                    let work = work();
                    tasks.spawn(async move {
                        let value = work.await;
                        // Whoever comes from now on begins anew.
                        drop(landing);
                        sender.send_replace(Some(value));
                    });
                    answer
                }
            }
        };
        let answer = answer.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }
}

/// Takes the work off the list, also if it panics.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_ask_and_one_works_even_if_the_first_goes() {
        let flights: Arc<Flights<&str, usize>> = Arc::default();
        let tasks: Arc<Tasks> = Arc::default();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (flights, runs, gate) = (flights.clone(), runs.clone(), gate.clone());
            let tasks = tasks.clone();
            async move {
                let work = || async move {
                    gate.notified().await;
                    runs.fetch_add(1, Ordering::SeqCst) + 1
                };
                flights.run("key", &tasks, work).await
            }
        };
        {
            let mut first = Box::pin(ask());
            let pending = std::future::poll_fn(|context| {
                std::task::Poll::Ready(first.as_mut().poll(context).is_pending())
            });
            assert!(pending.await);
        }
        let others: Vec<_> = (0..20).map(|_| tokio::spawn(ask())).collect();
        tokio::task::yield_now().await;
        gate.notify_one();
        for other in others {
            assert_eq!(other.await.expect("no panic"), Some(1));
        }
        gate.notify_one();
        assert_eq!(ask().await, Some(2), "the next one begins anew");
    }

    #[tokio::test]
    async fn work_that_dies_frees_its_key() {
        let (flights, tasks): (Flights<u8, u8>, Tasks) = Default::default();
        assert_eq!(flights.run(1, &tasks, || async { panic!("as planned") }).await, None);
        assert_eq!(flights.run(1, &tasks, || async { 7 }).await, Some(7));
    }
}
