//! What a path is about.

use percent_encoding::percent_decode_str;

use crate::resources::{self, Resource};

/// A recognised path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/healthz`, `/livez`, `/readyz` and what is below them.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    GroupVersion { group: String, version: String },
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`.
    OpenApiV3Document { group: String, version: String },
    /// `/.well-known/openid-configuration`.
    IdentityConfiguration,
    /// `/openid/v1/jwks`.
    IdentityKeys,
    /// A resource.
    Resource(ResourceRoute),
    /// Nothing we know.
    Unknown,
}

/// A path below a resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResourceRoute {
    pub(super) resource: &'static Resource,
    /// Empty for cluster-scoped kinds and for all namespaces.
    pub(super) namespace: String,
    /// Empty for the collection.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

/// Recognises a path.
pub(super) fn route(path: &str) -> Route {
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::Core,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", "v1"] => Route::GroupVersion { group: String::new(), version: "v1".to_owned() },
        ["apis", group, version] => {
            Route::GroupVersion { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "api", version] => {
            Route::OpenApiV3Document { group: String::new(), version: (*version).to_owned() }
        }
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApiV3Document { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        [".well-known", "openid-configuration"] => Route::IdentityConfiguration,
        ["openid", "v1", "jwks"] => Route::IdentityKeys,
        ["api", "v1", rest @ ..] => resource_route("", "v1", rest),
        ["apis", group, version, rest @ ..] => resource_route(group, version, rest),
        _ => Route::Unknown,
    }
}

fn resource_route(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        // `namespaces/<ns>/status` and `/finalize` are about the namespace object itself.
        ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Route::Unknown,
    };
    let Some(resource) = resources::by_path(group, version, plural) else { return Route::Unknown };
    let misplaced = (!resource.is_namespaced() && !namespace.is_empty())
        || (resource.is_namespaced() && namespace.is_empty() && !name.is_empty());
    if misplaced {
        return Route::Unknown;
    }
    Route::Resource(ResourceRoute {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<(&'static str, String, String, String)> {
        match route(path) {
            Route::Resource(one) => {
                Some((one.resource.plural, one.namespace, one.name, one.subresource))
            }
            _ => None,
        }
    }

    #[test]
    fn resource_paths_follow_the_url_grammar() {
        let rows = [
            ("/api/v1/pods", ("pods", "", "", "")),
            ("/api/v1/namespaces/a/pods", ("pods", "a", "", "")),
            ("/api/v1/namespaces/a/pods/p/log", ("pods", "a", "p", "log")),
            ("/api/v1/namespaces", ("namespaces", "", "", "")),
            ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
            ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
            ("/api/v1/namespaces/a/finalize", ("namespaces", "", "a", "finalize")),
            ("/apis/batch/v1/namespaces/a/jobs/j/status", ("jobs", "a", "j", "status")),
            ("/api/v1/nodes/n%2e1/status", ("nodes", "", "n.1", "status")),
        ];
        for (path, (plural, namespace, name, subresource)) in rows {
            let expected = (plural, namespace.to_owned(), name.to_owned(), subresource.to_owned());
            assert_eq!(parts(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn paths_that_are_no_resource_are_unknown() {
        for path in [
            "/api/v1/nope",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes/n",
            "/apis/batch/v2/jobs",
            "/",
            "/api/v2/pods",
        ] {
            assert_eq!(route(path), Route::Unknown, "{path}");
        }
    }
}
