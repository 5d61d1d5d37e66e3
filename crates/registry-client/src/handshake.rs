//! What to do after a 401, as a function of what was seen. No sockets, no clock.

use credentials::{RegistryAuth, Secret};
use url::Url;

use crate::challenge::{Challenge, Scheme};

/// What the token service knows us as (OAuth2 `client_id`).
pub const CLIENT_ID: &str = "shipway";

/// What was already done for the request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It went out without a credential, or with a token that may be outdated.
    Nothing,
    /// It went out with user and password.
    Basic,
    /// It went out with a token fetched for it.
    FreshToken,
    /// It went out with the caller's own registry token.
    RegistryToken,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// Send the request again with user and password.
    SendBasic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// Fetch a token, then send the request again with it.
    FetchToken(TokenRequest),
    /// There is nothing left to try.
    GiveUp(GiveUp),
}

/// Why nothing is left to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// The registry wants a credential and there is none.
    NoCredential,
    /// The credential was refused.
    Refused,
    /// The registry did not say how to authenticate.
    NoChallenge,
    /// The token service's address is no URL that we would talk to.
    BadRealm(String),
}

impl GiveUp {
    /// The words that users of containerd search for.
    pub fn reason(&self) -> String {
        match self {
            Self::NoCredential => "authorization failed: no basic auth credentials".to_owned(),
            Self::Refused => "authorization failed".to_owned(),
            Self::NoChallenge => "authorization failed: the registry names no way".to_owned(),
            Self::BadRealm(realm) => {
                format!("authorization failed: bad token service address {realm:?}")
            }
        }
    }
}

/// A request to a token service (distribution token specification).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Address of the service, without our parameters.
    pub realm: Url,
    /// Name of the registry as the token service knows it.
    pub service: Option<String>,
    /// Rights to ask for, each `repository:<name>:<actions>` or `registry:catalog:*`.
    pub scopes: Vec<String>,
    /// Who asks.
    pub grant: Grant,
}

/// Who asks for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Nobody in particular: GET without a credential.
    Anonymous,
    /// User and password: GET with Basic, as docker does.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// An identity token: POST with `grant_type=refresh_token` (RFC 6749 section 6).
    Refresh {
        /// The identity token.
        token: Secret,
    },
}

impl TokenRequest {
    /// The address of a GET, with our parameters.
    pub fn get_url(&self) -> Url {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
            if let Grant::Basic { username, .. } = &self.grant {
                query.append_pair("account", username);
            }
            query.append_pair("client_id", CLIENT_ID);
        }
        url
    }

    /// The form of a POST; scopes go into one field there, separated by spaces.
    pub fn post_form(&self, refresh_token: &str) -> Vec<(&'static str, String)> {
        let mut form = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", refresh_token.to_owned()),
            ("client_id", CLIENT_ID.to_owned()),
        ];
        if let Some(service) = &self.service {
            form.push(("service", service.clone()));
        }
        if !self.scopes.is_empty() {
            form.push(("scope", self.scopes.join(" ")));
        }
        form
    }
}

/// Decides what to do after a 401. `scopes` is what the request needs by our own knowledge.
pub fn after_unauthorized(
    challenges: &[Challenge],
    auth: Option<&RegistryAuth>,
    scopes: &[String],
    tried: Tried,
) -> NextStep {
    let by_scheme = |scheme: Scheme| challenges.iter().find(|challenge| challenge.scheme == scheme);
    match tried {
        Tried::Basic | Tried::FreshToken | Tried::RegistryToken => {
            return NextStep::GiveUp(GiveUp::Refused);
        }
        Tried::Nothing => {}
    }
    // Where both are offered the token says more: it carries the rights that were granted.
    if let Some(bearer) = by_scheme(Scheme::Bearer) {
        return token_request(bearer, auth, scopes);
    }
    if by_scheme(Scheme::Basic).is_none() {
        return NextStep::GiveUp(GiveUp::NoChallenge);
    }
    match auth {
        Some(RegistryAuth::Basic { username, password, .. }) => {
            NextStep::SendBasic { username: username.clone(), password: password.clone() }
        }
        Some(RegistryAuth::IdentityToken { .. } | RegistryAuth::RegistryToken { .. }) | None => {
            NextStep::GiveUp(GiveUp::NoCredential)
        }
    }
}

fn token_request(
    challenge: &Challenge,
    auth: Option<&RegistryAuth>,
    scopes: &[String],
) -> NextStep {
    let realm_text = challenge.parameter("realm").unwrap_or_default();
    let realm = match Url::parse(realm_text) {
        Ok(realm) if matches!(realm.scheme(), "http" | "https") && realm.host().is_some() => realm,
        _ => return NextStep::GiveUp(GiveUp::BadRealm(realm_text.to_owned())),
    };
    let mut scopes = scopes.to_vec();
    for scope in challenge.parameter("scope").unwrap_or_default().split(' ') {
        if !scope.is_empty() && !scopes.iter().any(|ours| covers(ours, scope)) {
            // Some services honour the first scope only; the registry knows best which it needs.
            scopes.insert(0, scope.to_owned());
        }
    }
    let grant = match auth {
        None | Some(RegistryAuth::RegistryToken { .. }) => Grant::Anonymous,
        Some(RegistryAuth::Basic { username, password, .. }) => {
            Grant::Basic { username: username.clone(), password: password.clone() }
        }
        Some(RegistryAuth::IdentityToken { token }) => Grant::Refresh { token: token.clone() },
    };
    let service = challenge.parameter("service").map(str::to_owned);
    NextStep::FetchToken(TokenRequest { realm, service, scopes, grant })
}

/// Whether one scope grants all that another asks for.
fn covers(scope: &str, other: &str) -> bool {
    let split = |scope: &str| -> Option<(String, Vec<String>)> {
        let (resource, actions) = scope.rsplit_once(':')?;
        Some((resource.to_owned(), actions.split(',').map(str::to_owned).collect()))
    };
    match (split(scope), split(other)) {
        (Some((resource, actions)), Some((other, wanted))) => {
            resource == other && wanted.iter().all(|action| actions.contains(action))
        }
        _ => scope == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(header: &str) -> Vec<Challenge> {
        Challenge::parse_all([header])
    }

    fn ada() -> RegistryAuth {
        RegistryAuth::basic("ada", Secret::new("pw"))
    }

    const BEARER: &str =
        r#"Bearer realm="https://t.example/token",service="reg",scope="repository:a:pull""#;

    fn token(step: NextStep) -> TokenRequest {
        match step {
            NextStep::FetchToken(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn basic_challenge_sends_user_and_password_once() {
        let basic = challenges("Basic realm=x");
        let step = after_unauthorized(&basic, Some(&ada()), &[], Tried::Nothing);
        assert!(matches!(step, NextStep::SendBasic { username, .. } if username == "ada"));
        let step = after_unauthorized(&basic, Some(&ada()), &[], Tried::Basic);
        assert_eq!(step, NextStep::GiveUp(GiveUp::Refused));
        let step = after_unauthorized(&basic, None, &[], Tried::Nothing);
        assert_eq!(step, NextStep::GiveUp(GiveUp::NoCredential));
    }

    #[test]
    fn bearer_challenge_asks_for_the_scopes_of_both_sides() {
        let scopes = ["repository:a:pull,push".to_owned()];
        let request = token(after_unauthorized(&challenges(BEARER), None, &scopes, Tried::Nothing));
        assert_eq!(request.scopes, ["repository:a:pull,push"]);
        assert_eq!(request.grant, Grant::Anonymous);
        let other = ["repository:b:pull".to_owned()];
        let request = token(after_unauthorized(&challenges(BEARER), None, &other, Tried::Nothing));
        assert_eq!(request.scopes, ["repository:a:pull", "repository:b:pull"]);
        assert_eq!(
            request.get_url().as_str(),
            "https://t.example/token?service=reg&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull&client_id=shipway"
        );
    }

    #[test]
    fn identity_token_is_exchanged_by_post() {
        let auth = RegistryAuth::IdentityToken { token: Secret::new("r") };
        let step = after_unauthorized(&challenges(BEARER), Some(&auth), &[], Tried::Nothing);
        let request = token(step);
        assert_eq!(request.grant, Grant::Refresh { token: Secret::new("r") });
        let form = request.post_form("r");
        assert!(form.contains(&("grant_type", "refresh_token".to_owned())));
        assert!(form.contains(&("scope", "repository:a:pull".to_owned())));
    }

    #[test]
    fn a_refused_fresh_token_ends_the_handshake() {
        for tried in [Tried::FreshToken, Tried::RegistryToken] {
            let step = after_unauthorized(&challenges(BEARER), Some(&ada()), &[], tried);
            assert_eq!(step, NextStep::GiveUp(GiveUp::Refused));
        }
    }

    #[test]
    fn token_services_must_be_http_urls() {
        for realm in ["", "file:///etc/passwd", "/token", "javascript:1"] {
            let header = format!("Bearer realm=\"{realm}\"");
            let step = after_unauthorized(&challenges(&header), None, &[], Tried::Nothing);
            assert_eq!(step, NextStep::GiveUp(GiveUp::BadRealm(realm.to_owned())));
        }
    }

    #[test]
    fn bearer_is_preferred_to_basic() {
        let both = challenges(&format!("Basic realm=x, {BEARER}"));
        let step = after_unauthorized(&both, Some(&ada()), &[], Tried::Nothing);
        assert!(matches!(step, NextStep::FetchToken(_)));
    }

    #[test]
    fn no_challenge_is_nothing_to_answer() {
        let step = after_unauthorized(&[], Some(&ada()), &[], Tried::Nothing);
        assert_eq!(step, NextStep::GiveUp(GiveUp::NoChallenge));
    }
}
