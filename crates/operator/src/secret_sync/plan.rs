//! Wanted against seen: which writes bring a cluster to what a sync is to keep.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt as _};

use super::SECRET_TYPE;
use super::content::Content;
use super::observed::{AccountState, NamespaceState, Observed, SecretState, Version};

/// Namespaces of the cluster itself; a sync goes there only when they are named.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];

/// Which namespaces a sync is for.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// By name.
    pub named: BTreeSet<String>,
    /// By label.
    pub selector: Option<Selector>,
    /// All of them.
    pub all: bool,
    /// Not these, whatever else is said: nothing is written there, and nothing removed.
    pub excluded: BTreeSet<String>,
}

impl Scope {
    /// Refuses a choice that chooses nothing, and names that are empty, as those of an unset
    /// variable are: neither may ever mean all namespaces.
    ///
    /// # Errors
    /// [`BadScope`].
    pub fn check(&self) -> Result<(), BadScope> {
        if self.named.iter().chain(&self.excluded).any(String::is_empty) {
            return Err(BadScope::EmptyName);
        }
        if self.named.is_empty() && self.selector.is_none() && !self.all {
            return Err(BadScope::Nothing);
        }
        Ok(())
    }

    /// Whether a namespace is in it, or not, for as long as the sync runs.
    pub fn is_by_name_only(&self) -> bool {
        !self.named.is_empty() && self.selector.is_none() && !self.all
    }

    /// Whether what was made in a namespace may be taken away by `--remove`: all means those of
    /// the system too, into which a sync may have gone by name.
    fn removes_from(&self, name: &str, namespace: &NamespaceState) -> bool {
        !self.excluded.contains(name) && (self.all || self.covers(name, namespace))
    }

    fn covers(&self, name: &str, namespace: &NamespaceState) -> bool {
        if self.excluded.contains(name) {
            return false;
        }
        if self.named.contains(name) {
            return true;
        }
        let matches = |selector: &Selector| selector.matches(&namespace.labels);
        !SYSTEM_NAMESPACES.contains(&name)
            && (self.all || self.selector.as_ref().is_some_and(matches))
    }
}

/// Why a scope is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScope {
    /// A namespace without a name.
    #[error("the name of a namespace is empty")]
    EmptyName,
    /// Nothing is chosen, or only what is not to be.
    #[error("no namespace is chosen")]
    Nothing,
}

/// Which service accounts of those namespaces get the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accounts {
    /// None: pods name the secret themselves.
    #[default]
    None,
    /// By name.
    Named(BTreeSet<String>),
    /// All of them.
    All,
}

impl Accounts {
    fn cover(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Named(names) => names.contains(name),
            Self::All => true,
        }
    }
}

/// What happens to what the sync made where it is not wanted any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Elsewhere {
    /// It stays.
    #[default]
    Keep,
    /// It is removed.
    Remove,
}

/// What a sync is to keep.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Name of the sync and of its secrets.
    pub name: String,
    /// What the secrets hold; without it, what was made in scope is removed.
    pub content: Option<Content>,
    /// Where.
    pub scope: Scope,
    /// For whom.
    pub accounts: Accounts,
    /// What about the rest.
    pub elsewhere: Elsewhere,
    /// Namespace and name of the secret that is the source, if one is: it is never written.
    pub source: Option<(String, String)>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In this namespace.
    pub namespace: String,
    /// What.
    pub kind: StepKind,
}

/// What a step writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Makes the secret.
    CreateSecret,
    /// Puts the content back, or a new one in place.
    UpdateSecret {
        /// The state that is replaced.
        version: Version,
    },
    /// Removes the secret.
    DeleteSecret {
        /// The state that is removed.
        version: Version,
    },
    /// Adds the secret to an account's pull secrets.
    AddToAccount {
        /// The account.
        account: String,
        /// The whole new list, which is atomic.
        pull_secrets: Vec<String>,
        /// The state that is replaced.
        version: Version,
    },
    /// Takes it away again.
    RemoveFromAccount {
        /// The account.
        account: String,
        /// The whole new list.
        pull_secrets: Vec<String>,
        /// The state that is replaced.
        version: Version,
    },
}

/// What a sync cannot or will not do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// A secret that somebody else made is in the way.
    #[error(
        "secret {namespace}/{name} was not made by this sync and is left alone; sync under another \
         name, or remove it"
    )]
    Foreign {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A secret of ours was frozen.
    #[error("secret {namespace}/{name} is immutable and has another content; remove it")]
    Immutable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A namespace that was named is not there.
    #[error("namespace {namespace} does not exist")]
    NoNamespace {
        /// Its name.
        namespace: String,
    },
    /// An account that was named is not there.
    #[error("service account {namespace}/{account} does not exist")]
    NoAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        account: String,
    },
}

/// The writes to make, in order, and what stands in the way of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Secrets come before the accounts that name them, and go after them.
    pub steps: Vec<Step>,
    /// What is left undone.
    pub problems: Vec<Problem>,
}

/// Compares what is wanted with what is seen.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let unknown = |name: &&String| !observed.namespaces.contains_key(*name);
    let named = desired.scope.named.iter().filter(unknown);
    plan.problems
        .extend(named.map(|namespace| Problem::NoNamespace { namespace: namespace.clone() }));
    for (name, namespace) in &observed.namespaces {
        let place = Place {
            desired,
            namespace: name,
            secret: observed.secrets.get(name),
            accounts: accounts_of(observed, name),
        };
        // Everything in a namespace that ends goes with it.
        if namespace.terminating {
            continue;
        }
        let scope = &desired.scope;
        match &desired.content {
            _ if scope.excluded.contains(name) => {}
            Some(content) if scope.covers(name, namespace) => place.keep(content, &mut plan),
            Some(_) if desired.elsewhere == Elsewhere::Remove => place.clear(&mut plan),
            None if scope.removes_from(name, namespace) => place.clear(&mut plan),
            Some(_) | None => {}
        }
    }
    plan
}

fn accounts_of<'a>(observed: &'a Observed, namespace: &str) -> BTreeMap<&'a str, &'a AccountState> {
    let first = (namespace.to_owned(), String::new());
    observed
        .accounts
        .range(first..)
        .take_while(|((of, _), _)| of == namespace)
        .map(|((_, name), account)| (name.as_str(), account))
        .collect()
}

/// One namespace, and what is wanted in it.
struct Place<'a> {
    desired: &'a Desired,
    namespace: &'a str,
    secret: Option<&'a SecretState>,
    accounts: BTreeMap<&'a str, &'a AccountState>,
}

impl Place<'_> {
    fn step(&self, kind: StepKind) -> Step {
        Step { namespace: self.namespace.to_owned(), kind }
    }

    fn is_source(&self) -> bool {
        let source = self.desired.source.as_ref();
        source.is_some_and(|(namespace, name)| {
            namespace == self.namespace && *name == self.desired.name
        })
    }

    fn is_ours(&self, secret: &SecretState) -> bool {
        secret.owner.as_deref() == Some(&self.desired.name) && !self.is_source()
    }

    /// Makes the namespace as it should be.
    fn keep(&self, content: &Content, plan: &mut Plan) {
        if !self.keep_secret(content, plan) {
            return;
        }
        for (name, account) in &self.accounts {
            let has = account.pull_secrets.contains(&self.desired.name);
            if self.desired.accounts.cover(name) {
                if !has {
                    let mut pull_secrets = account.pull_secrets.clone();
                    pull_secrets.push(self.desired.name.clone());
                    plan.steps.push(self.step(StepKind::AddToAccount {
                        account: (*name).to_owned(),
                        pull_secrets,
                        version: account.version.clone(),
                    }));
                }
            } else if account.added && self.desired.elsewhere == Elsewhere::Remove {
                plan.steps.push(self.removal(name, account));
            }
        }
        // Elsewhere an account that only some namespaces have is nothing unusual.
        if let Accounts::Named(names) = &self.desired.accounts
            && self.desired.scope.named.contains(self.namespace)
        {
            let missing = names.iter().filter(|name| !self.accounts.contains_key(name.as_str()));
            plan.problems.extend(missing.map(|account| Problem::NoAccount {
                namespace: self.namespace.to_owned(),
                account: account.clone(),
            }));
        }
    }

    /// Whether the secret is, or will be, there and ours.
    fn keep_secret(&self, content: &Content, plan: &mut Plan) -> bool {
        let (namespace, name) = (self.namespace.to_owned(), self.desired.name.clone());
        if self.is_source() {
            return true;
        }
        let Some(secret) = self.secret else {
            plan.steps.push(self.step(StepKind::CreateSecret));
            return true;
        };
        if !self.is_ours(secret) || secret.kind != SECRET_TYPE {
            plan.problems.push(Problem::Foreign { namespace, name });
            return false;
        }
        let same_content = secret.content == Some(content.fingerprint());
        if same_content && secret.mark.as_deref() == Some(content.mark()) {
            return true;
        }
        if secret.immutable && !same_content {
            plan.problems.push(Problem::Immutable { namespace, name });
            return true;
        }
        let version = secret.version.clone();
        plan.steps.push(self.step(StepKind::UpdateSecret { version }));
        true
    }

    /// Takes away what this sync made, and nothing else.
    fn clear(&self, plan: &mut Plan) {
        for (name, account) in self.accounts.iter().filter(|(_, account)| account.added) {
            plan.steps.push(self.removal(name, account));
        }
        if let Some(secret) = self.secret.filter(|secret| self.is_ours(secret)) {
            let version = secret.version.clone();
            plan.steps.push(self.step(StepKind::DeleteSecret { version }));
        }
    }

    /// The step that takes our one entry out of a list, wherever people moved it.
    fn removal(&self, name: &str, account: &AccountState) -> Step {
        let mut pull_secrets = account.pull_secrets.clone();
        if let Some(at) = pull_secrets.iter().position(|entry| *entry == self.desired.name) {
            pull_secrets.remove(at);
        }
        self.step(StepKind::RemoveFromAccount {
            account: name.to_owned(),
            pull_secrets,
            version: account.version.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
