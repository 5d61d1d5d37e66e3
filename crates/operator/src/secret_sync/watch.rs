//! A sync that goes on: each change of the source, of a namespace, of a secret or of an account is
//! seen as it happens and answered.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt as _};
use tokio::time::Instant;

use super::observed::{AccountState, NamespaceState, Observed, SecretState};
use super::plan::{Desired, Problem, Step, plan};
use super::reconcile::{Reconciler, Told};
use super::source::{SourceError, Sourced};

/// Pause after the first failed write; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Something happened.
enum News {
    Source(Result<Sourced, SourceError>),
    Namespace(Event<Namespace>),
    Secret(Event<Secret>),
    Account(Event<ServiceAccount>),
    Trouble(String),
}

/// One kind as watched: the state of the last complete list and what came after, and a list that
/// is being read.
struct Kind<K> {
    fresh: Option<K>,
    complete: bool,
}

impl<K, V> Kind<BTreeMap<K, V>>
where
    K: Ord,
{
    fn new() -> Self {
        Self { fresh: None, complete: false }
    }

    fn take<T>(&mut self, live: &mut BTreeMap<K, V>, event: Event<T>, read: impl Fn(&T) -> (K, V)) {
        match event {
            Event::Init => self.fresh = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let (key, value) = read(&object);
                self.fresh.get_or_insert_default().insert(key, value);
            }
            Event::InitDone => {
                *live = self.fresh.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => {
                let (key, value) = read(&object);
                live.insert(key, value);
            }
            Event::Delete(object) => {
                live.remove(&read(&object).0);
            }
        }
    }
}

/// What the watches have told so far.
struct Seen {
    observed: Observed,
    namespaces: Kind<BTreeMap<String, NamespaceState>>,
    secrets: Kind<BTreeMap<String, SecretState>>,
    accounts: Kind<BTreeMap<(String, String), AccountState>>,
}

impl Seen {
    fn new() -> Self {
        Self {
            observed: Observed::default(),
            namespaces: Kind::new(),
            secrets: Kind::new(),
            accounts: Kind::new(),
        }
    }

    /// Whether each kind was listed to its end once.
    fn is_complete(&self) -> bool {
        self.namespaces.complete && self.secrets.complete && self.accounts.complete
    }
}

impl Reconciler {
    /// Keeps the cluster as wanted until the future is dropped. `desired.content` is what the
    /// source gives: while it gives nothing that can be used, what there is stays.
    pub async fn watch(
        &self,
        desired: Desired,
        source: impl Stream<Item = Result<Sourced, SourceError>> + Send + 'static,
        tell: &mut (dyn FnMut(Told) + Send),
    ) {
        let mut desired = Desired { content: None, ..desired };
        let mut news = self.news(source);
        let mut seen = Seen::new();
        let mut told_problems = Vec::new();
        let mut retry: Option<Instant> = None;
        let mut waiting: Vec<Step> = Vec::new();
        let mut pause = PAUSE_FIRST;
        let mut settled = false;
        loop {
            let first = tokio::select! {
                first = news.next() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
                () = sleep_until(retry) => None,
            };
            let before = desired.content.as_ref().map(super::Content::fingerprint);
            // What is there already belongs to one decision.
            let mut next = first;
            while let Some(one) = next {
                self.note(one, &mut desired, &mut seen, tell);
                next = news.next().now_or_never().flatten();
            }
            if desired.content.is_none() || !seen.is_complete() {
                continue;
            }
            let now = desired.content.as_ref().map(super::Content::fingerprint);
            if now != before || retry.is_some_and(|when| when <= Instant::now()) {
                (retry, waiting) = (None, Vec::new());
            }
            let mut planned = plan(&desired, &seen.observed);
            waiting = hold_back(&mut planned.steps, &waiting);
            let made = self.make_all(&desired, &planned, &mut seen.observed, tell).await;
            waiting.extend(made.refused);
            if waiting.is_empty() {
                (retry, pause) = (None, PAUSE_FIRST);
            } else if retry.is_none() {
                retry = Some(Instant::now() + pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            let problems: Vec<Problem> =
                planned.problems.into_iter().filter(is_worth_telling).collect();
            for problem in problems.iter().filter(|problem| !told_problems.contains(*problem)) {
                tell(Told::Problem(problem.clone()));
            }
            told_problems = problems;
            let quiet = waiting.is_empty() && !made.raced;
            if quiet && (!settled || made.done > 0) {
                tell(Told::Settled);
            }
            settled = quiet;
        }
    }

    fn news(
        &self,
        source: impl Stream<Item = Result<Sourced, SourceError>> + Send + 'static,
    ) -> BoxStream<'static, News> {
        let named = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let all = watcher::Config::default;
        futures_util::stream::select_all([
            // A source that ends gives no more news, which is no reason to stop.
            source.map(News::Source).chain(futures_util::stream::pending()).boxed(),
            self.watched(all(), "namespaces", News::Namespace),
            self.watched(named, "secrets", News::Secret),
            self.watched(all(), "service accounts", News::Account),
        ])
        .boxed()
    }

    fn watched<K>(
        &self,
        config: watcher::Config,
        what: &'static str,
        news: fn(Event<K>) -> News,
    ) -> BoxStream<'static, News>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
        K: serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let events = watcher(api, config).default_backoff();
        let news = events.map(move |event| match event {
            Ok(event) => news(event),
            Err(error) => News::Trouble(format!("cannot watch {what}: {error}")),
        });
        news.boxed()
    }

    fn note(
        &self,
        news: News,
        desired: &mut Desired,
        seen: &mut Seen,
        tell: &mut (dyn FnMut(Told) + Send),
    ) {
        let Seen { observed, namespaces, secrets, accounts } = seen;
        match news {
            News::Source(Ok(sourced)) => {
                let known = desired.content.as_ref();
                if let Some(Err(error)) = known.map(|known| sourced.check_after(known)) {
                    tell(Told::NoSource(error));
                    return;
                }
                let known = known.map(super::Content::fingerprint);
                if known != Some(sourced.content.fingerprint()) {
                    desired.content = Some(sourced.content.clone());
                    tell(Told::Source(sourced));
                }
            }
            News::Source(Err(error)) => tell(Told::NoSource(error)),
            News::Namespace(event) => namespaces.take(&mut observed.namespaces, event, |one| {
                (one.name_any(), NamespaceState::of(one))
            }),
            News::Secret(event) => secrets.take(&mut observed.secrets, event, |one| {
                (one.namespace().unwrap_or_default(), SecretState::of(one))
            }),
            News::Account(event) => accounts.take(&mut observed.accounts, event, |one| {
                let key = (one.namespace().unwrap_or_default(), one.name_any());
                (key, AccountState::of(one, &self.name))
            }),
            News::Trouble(text) => tell(Told::Trouble(text)),
        }
    }
}

/// Takes the steps out that failed and wait for their time, with what follows them in their
/// namespace; those that are still planned. A step knows the state of its object, so that one whose
/// object changed is another step, and waits no more.
fn hold_back(steps: &mut Vec<Step>, waiting: &[Step]) -> Vec<Step> {
    let mut held: Vec<Step> = Vec::new();
    steps.retain(|step| {
        if waiting.contains(step) {
            held.push(step.clone());
            return false;
        }
        !held.iter().any(|one| one.namespace == step.namespace)
    });
    held
}

/// Namespaces and accounts that are not there yet are waited for.
fn is_worth_telling(problem: &Problem) -> bool {
    matches!(problem, Problem::Foreign { .. } | Problem::Immutable { .. })
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret_sync::{StepKind, Version};

    #[test]
    fn failed_steps_wait_with_their_namespace_until_their_object_changes() {
        let step = |namespace: &str, kind| Step { namespace: namespace.to_owned(), kind };
        let update = |state: &str| {
            let version = Version { uid: "u".to_owned(), resource_version: state.to_owned() };
            step("a", StepKind::UpdateSecret { version })
        };
        let add = |namespace: &str| {
            step(
                namespace,
                StepKind::AddToAccount {
                    account: "default".to_owned(),
                    pull_secrets: vec!["regcred".to_owned()],
                    version: Version::default(),
                },
            )
        };
        let waiting = [update("1"), step("gone", StepKind::CreateSecret)];
        let mut steps = vec![update("1"), add("a"), add("b")];
        assert_eq!(hold_back(&mut steps, &waiting), [update("1")]);
        assert_eq!(steps, [add("b")]);
        let mut steps = vec![update("2"), add("a"), add("b")];
        assert_eq!(hold_back(&mut steps, &waiting), []);
        assert_eq!(steps, [update("2"), add("a"), add("b")]);
    }
}
