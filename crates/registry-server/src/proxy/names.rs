//! From the name that a client asks for to a repository of an upstream. No I/O.

use oci_model::{ErrorCode, Repository};

use super::options::{ProxyOptionsError, UpstreamOptions};
use crate::pattern::{self, Wildcards};
use crate::refusal::Refusal;

/// Docker Hub has several names and a first component that users leave out.
const HUB: &str = "docker.io";

/// The name spaces of all upstreams.
#[derive(Debug)]
pub(crate) struct Names(Vec<Space>);

#[derive(Debug)]
struct Space {
    host: String,
    /// Path of its repositories here, canonical one first; each ends with a slash.
    paths: Vec<String>,
    unprefixed: Vec<String>,
    allowed: Vec<String>,
}

/// A repository of an upstream, as one request asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Which upstream, by position in the options.
    pub(crate) upstream: usize,
    /// The repository here, under its one canonical name: what rights and cache go by.
    pub(crate) local: Repository,
    /// The repository there.
    pub(crate) remote: Repository,
    /// The name that the client used.
    pub(crate) asked: Repository,
    /// What the client sent as `ns`.
    pub(crate) ns: Option<String>,
}

impl Names {
    pub(crate) fn new(upstreams: &[UpstreamOptions]) -> Result<Self, ProxyOptionsError> {
        let mut spaces: Vec<Space> = Vec::new();
        for options in upstreams {
            let host = canonical_host(&options.host);
            if spaces.iter().any(|space| space.host == host) {
                return Err(ProxyOptionsError::Twice { name: host.clone(), host });
            }
            let prefix = options.prefix.trim_matches('/');
            let path = |name: &str| match prefix {
                "" => format!("{name}/"),
                prefix => format!("{prefix}/{name}/"),
            };
            let mut paths = Vec::new();
            if let Some(alias) = &options.alias {
                paths.push(path(alias));
            }
            let by_host = path(&host);
            let is_name = |path: &str| Repository::new(path.trim_end_matches('/')).is_ok();
            // A host with a port is no part of a name; then there is the alias only.
            if paths.is_empty() || is_name(&by_host) {
                paths.push(by_host);
            }
            for path in &paths {
                if !is_name(path) {
                    return Err(ProxyOptionsError::Name { host, path: path.clone() });
                }
                if spaces.iter().any(|space| space.paths.contains(path)) {
                    return Err(ProxyOptionsError::Twice { host, name: path.clone() });
                }
            }
            paths.dedup();
            spaces.push(Space {
                host,
                paths,
                unprefixed: options.unprefixed.clone(),
                allowed: options.repositories.clone(),
            });
        }
        Ok(Self(spaces))
    }

    /// The repository of an upstream that a name means; nothing for a local repository.
    ///
    /// # Errors
    /// 404 for an `ns` that is not behind this registry, 403 for a repository that is not passed
    /// on.
    pub(crate) fn find(
        &self,
        asked: &Repository,
        ns: Option<&str>,
        own: &str,
    ) -> Result<Option<Named>, Refusal> {
        let name = asked.as_str();
        let found = match ns.filter(|ns| !ns.is_empty() && *ns != own) {
            // A registry that caches nothing may still be a mirror of something.
            Some(_) if self.0.is_empty() => None,
            Some(ns) => {
                let host = canonical_host(ns);
                let found = self.0.iter().enumerate().find(|(_, space)| space.host == host);
                let Some((at, space)) = found else {
                    let text = format!("{ns:?} is not a registry that this one passes on");
                    return Err(Refusal::new(ErrorCode::NameUnknown, text));
                };
                // Clients with a path in their configuration send both.
                let rest = space.paths.iter().find_map(|path| name.strip_prefix(path.as_str()));
                Some((at, rest.unwrap_or(name)))
            }
            None => self.by_path(name),
        };
        let Some((at, rest)) = found else { return Ok(None) };
        let space = &self.0[at];
        let remote = match (space.host.as_str(), rest.contains('/')) {
            (HUB, false) => format!("library/{rest}"),
            _ => rest.to_owned(),
        };
        if !space.allowed.is_empty()
            && !space
                .allowed
                .iter()
                .any(|pattern| pattern::matches(pattern, &remote, Wildcards::NAMES))
        {
            let text = format!("{remote} of {} is not passed on by this registry", space.host);
            return Err(Refusal::new(ErrorCode::Denied, text));
        }
        let invalid = |_| {
            let text = format!("{remote:?} of {} has no name here", space.host);
            Refusal::new(ErrorCode::NameInvalid, text)
        };
        let local = format!("{}{remote}", space.paths[0]);
        Ok(Some(Named {
            upstream: at,
            local: Repository::new(&local).map_err(invalid)?,
            remote: Repository::new(&remote).map_err(invalid)?,
            asked: asked.clone(),
            ns: ns.map(str::to_owned),
        }))
    }

    fn by_path<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let by_prefix = self
            .0
            .iter()
            .enumerate()
            .flat_map(|(at, space)| space.paths.iter().map(move |path| (at, path.as_str())))
            .filter_map(|(at, path)| Some((at, path.len(), name.strip_prefix(path)?)))
            .max_by_key(|(_, length, _)| *length)
            .map(|(at, _, rest)| (at, rest));
        by_prefix.or_else(|| {
            let claims = |space: &Space| {
                space
                    .unprefixed
                    .iter()
                    .any(|pattern| pattern::matches(pattern, name, Wildcards::NAMES))
            };
            self.0.iter().position(claims).map(|at| (at, name))
        })
    }
}

fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::NoUpstream;
    use super::*;

    fn upstream(host: &str, change: impl FnOnce(&mut UpstreamOptions)) -> UpstreamOptions {
        let mut options = UpstreamOptions::new(host, Arc::new(NoUpstream));
        change(&mut options);
        options
    }

    fn names() -> Names {
        Names::new(&[
            upstream("docker.io", |options| {
                options.prefix = "cache".to_owned();
                options.unprefixed = vec!["library/*".to_owned()];
            }),
            upstream("registry.example:5000", |options| {
                options.alias = Some("team".to_owned());
                options.repositories = vec!["apps/**".to_owned()];
            }),
            upstream("gcr.io", |options| options.alias = Some("g".to_owned())),
        ])
        .expect("names")
    }

    fn find(name: &str, ns: Option<&str>) -> String {
        let name = Repository::new(name).expect("a name");
        match names().find(&name, ns, "cache.example") {
            Ok(Some(named)) => format!("{} {} {}", named.upstream, named.local, named.remote),
            Ok(None) => "local".to_owned(),
            Err(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code()),
        }
    }

    #[test]
    fn names_lead_to_one_repository_whatever_the_form() {
        let nginx = "0 cache/docker.io/library/nginx library/nginx";
        for (name, ns, expected) in [
            ("cache/docker.io/library/nginx", None, nginx),
            ("cache/docker.io/nginx", None, nginx),
            ("library/nginx", None, nginx),
            ("library/nginx", Some("docker.io"), nginx),
            ("nginx", Some("index.docker.io"), nginx),
            ("cache/docker.io/library/nginx", Some("docker.io"), nginx),
            ("library/a/b", None, "local"),
            ("nginx", None, "local"),
            ("cache/other", None, "local"),
            ("cache/docker.io", None, "local"),
            ("library/nginx", Some("cache.example"), nginx),
            ("nginx", Some("cache.example"), "local"),
            ("library/nginx", Some("quay.io"), "404 NAME_UNKNOWN"),
            ("team/apps/web", None, "1 team/apps/web apps/web"),
            ("apps/web", Some("registry.example:5000"), "1 team/apps/web apps/web"),
            ("team/secret", None, "403 DENIED"),
            ("secret", Some("registry.example:5000"), "403 DENIED"),
            ("g/a/b", None, "2 g/a/b a/b"),
            ("gcr.io/a/b", None, "2 g/a/b a/b"),
        ] {
            assert_eq!(find(name, ns), expected, "{name} {ns:?}");
        }
        let long = "a".repeat(250);
        assert_eq!(find(&long, Some("docker.io")), "400 NAME_INVALID");
    }

    #[test]
    fn a_registry_that_caches_nothing_ignores_ns() {
        let names = Names::new(&[]).expect("names");
        let name = Repository::new("library/nginx").expect("a name");
        assert!(matches!(names.find(&name, Some("docker.io"), "x"), Ok(None)));
    }

    #[test]
    fn upstreams_have_names_of_their_own() {
        let error = |options: &[UpstreamOptions]| Names::new(options).map(drop).err();
        assert!(matches!(
            error(&[upstream("127.0.0.1:5000", |_| {})]),
            Some(ProxyOptionsError::Name { .. })
        ));
        for twice in [
            [upstream("docker.io", |_| {}), upstream("index.docker.io", |_| {})],
            [
                upstream("a.example", |_| {}),
                upstream("b.example", |options| {
                    options.alias = Some("a.example".to_owned());
                }),
            ],
        ] {
            assert!(matches!(error(&twice), Some(ProxyOptionsError::Twice { .. })), "{twice:?}");
        }
    }
}
