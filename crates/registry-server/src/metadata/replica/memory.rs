//! A bucket in memory that can be told to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::objects::{Listed, Objects, ObjectsError, Put};
use crate::bytes::bucket::Version;
use crate::metadata::lock;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing bad.
    Fine,
    /// It does not arrive.
    Lost,
    /// It arrives; the answer does not.
    AnswerLost,
    /// The answer is lost, and the replica reaches nothing from then on.
    Dies,
}

/// The objects; clones are the same bucket.
#[derive(Clone)]
pub(super) struct Memory {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    objects: BTreeMap<String, (u64, SystemTime, Bytes)>,
    version: u64,
    now: SystemTime,
}

type Plan = dyn FnMut(&'static str, &str) -> Fault + Send;

/// The bucket as one replica reaches it.
pub(super) struct View {
    memory: Memory,
    plan: Mutex<Box<Plan>>,
    dead: Mutex<bool>,
    /// Requests that arrived, as action and key.
    requests: Mutex<Vec<(&'static str, String)>>,
    /// Conditions that this bucket ignores.
    pub(super) ignored: &'static [&'static str],
}

impl Default for Memory {
    fn default() -> Self {
        let inner = Inner { objects: BTreeMap::new(), version: 0, now: SystemTime::UNIX_EPOCH };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl Memory {
    /// A way to the bucket on which `plan` decides what happens to each request.
    pub(super) fn view(
        &self,
        plan: impl FnMut(&'static str, &str) -> Fault + Send + 'static,
    ) -> Arc<View> {
        let (memory, plan) = (self.clone(), Mutex::new(Box::new(plan) as Box<Plan>));
        Arc::new(View {
            memory,
            plan,
            dead: Mutex::default(),
            requests: Mutex::default(),
            ignored: &[],
        })
    }

    /// A good way to the bucket.
    pub(super) fn reliable(&self) -> Arc<View> {
        self.view(|_, _| Fault::Fine)
    }

    /// Lets the clock of the bucket run.
    pub(super) fn pass(&self, time: Duration) {
        lock(&self.inner).now += time;
    }

    /// The keys below a prefix.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let inner = lock(&self.inner);
        inner.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Writes past every condition.
    pub(super) fn overwrite(&self, key: &str, bytes: Bytes) {
        lock(&self.inner).write(key, bytes);
    }

    /// Removes an object.
    pub(super) fn remove(&self, key: &str) {
        lock(&self.inner).objects.remove(key);
    }
}

impl Inner {
    fn write(&mut self, key: &str, bytes: Bytes) -> Version {
        self.version += 1;
        self.objects.insert(key.to_owned(), (self.version, self.now, bytes));
        Version { e_tag: Some(self.version.to_string()), version: None }
    }
}

impl View {
    /// Requests of a kind since the last call.
    pub(super) fn take_requests(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut lock(&self.requests))
    }

    /// Whether the replica can still reach the bucket.
    pub(super) fn is_dead(&self) -> bool {
        *lock(&self.dead)
    }

    fn serve<'a, T: Send + 'a>(
        &'a self,
        action: &'static str,
        key: &'a str,
        work: impl FnOnce(&mut Inner) -> T + Send + 'a,
    ) -> BoxFuture<'a, Result<T, ObjectsError>> {
        async move {
            // As over a network: others run between question and answer.
            tokio::task::yield_now().await;
            let fault = if self.is_dead() { Fault::Lost } else { (lock(&self.plan))(action, key) };
            let failed = |source: &str| {
                Err(ObjectsError { action, key: key.to_owned(), source: source.into() })
            };
            if fault == Fault::Lost {
                return failed("lost");
            }
            lock(&self.requests).push((action, key.to_owned()));
            let answer = work(&mut lock(&self.memory.inner));
            tokio::task::yield_now().await;
            match fault {
                Fault::Fine => Ok(answer),
                Fault::Lost | Fault::AnswerLost => failed("answer lost"),
                Fault::Dies => {
                    *lock(&self.dead) = true;
                    failed("died")
                }
            }
        }
        .boxed()
    }
}

impl Objects for View {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, ObjectsError>> {
        self.serve("read", key, move |inner| {
            inner.objects.get(key).map(|(_, _, bytes)| bytes.clone())
        })
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Put, ObjectsError>> {
        self.serve("create", key, move |inner| {
            if inner.objects.contains_key(key) && !self.ignored.contains(&"create") {
                Put::Refused
            } else {
                Put::Done(inner.write(key, bytes))
            }
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a str,
        seen: &'a Version,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Put, ObjectsError>> {
        self.serve("replace", key, move |inner| {
            let known = inner.objects.get(key).map(|(version, _, _)| version.to_string());
            if known != seen.e_tag && !self.ignored.contains(&"replace") {
                Put::Refused
            } else {
                Put::Done(inner.write(key, bytes))
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>> {
        self.serve("delete", key, move |inner| drop(inner.objects.remove(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>> {
        self.serve("list", prefix, move |inner| {
            let below = inner.objects.iter().filter(|(key, _)| key.starts_with(prefix));
            below
                .map(|(key, (_, modified, _))| Listed { key: key.clone(), modified: *modified })
                .collect()
        })
    }
}
