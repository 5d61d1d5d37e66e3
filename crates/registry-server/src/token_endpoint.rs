//! The token endpoint, GET and OAuth2 POST (distribution token authentication specification), and
//! the keys by which others verify its tokens.

use std::net::IpAddr;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use oci_model::ErrorCode;

use crate::auth::{
    Authority, Identity, Login, LoginError, Refresh, RefreshBinding, SERVICE, Scope, TokenError,
    authorization, decode_basic, issuer_unavailable, too_many_failures,
};
use crate::body::{RequestBody, read_whole};
use crate::operations::exchange::{Exchange, Peer};
use crate::refusal::Refusal;
use crate::route::Query;
use crate::service::{Answer, Service, json};

/// Largest form of a token request, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// The grant by which a token of an issuer is exchanged for one of ours (RFC 8693).
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What ours is called there.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What an issuer's may be called.
const SUBJECT_TOKENS: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];

/// Longest client id that is remembered, in bytes.
const CLIENT_BYTES_MAX: usize = 128;

/// A token request, of either form.
struct Asked<'a> {
    authority: &'a Authority,
    fields: Query,
    from: IpAddr,
    now: SystemTime,
}

/// Who gets a token.
struct Granted {
    identity: Identity,
    /// When what they showed ends.
    until: Option<SystemTime>,
    refresh_token: Option<String>,
}

/// Answers a token request.
pub(crate) async fn answer(
    service: &Service,
    exchange: &Exchange,
    parts: &Parts,
    body: &mut RequestBody,
) -> Answer {
    let fields = match parts.method {
        Method::GET => Query::parse_form(parts.uri.query().unwrap_or_default()),
        Method::POST => {
            let form = read_whole(body, FORM_BYTES_MAX).await?;
            Query::parse_form(&String::from_utf8_lossy(&form))
        }
        _ => return Err(Refusal::method()),
    };
    let authority = service.authority.now();
    let (from, now) = (exchange.peer.address, authority.now());
    let asked = Asked { authority: &authority, fields, from, now };
    asked.check_service()?;
    let granted = match parts.method {
        Method::POST => asked.by_form().await?,
        _ => asked.by_basic(parts, &exchange.peer).await?,
    };
    exchange.identified(&granted.identity.name);
    let scopes = Scope::parse_all(asked.fields.all("scope"));
    let access = authority.grant(&granted.identity, &scopes);
    let scope = access.to_scopes();
    let issued = authority
        .tokens()
        .access_token(&granted.identity, access, granted.until, now)
        .map_err(failed)?;
    tracing::info!(
        user = granted.identity.name,
        client = %from,
        token = issued.id,
        scope,
        "token issued"
    );
    let issued_at = jiff::Timestamp::try_from(now)
        .map_err(|error| Refusal::internal(&error))?
        .strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut reply = serde_json::json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.life.as_secs(),
        "issued_at": issued_at.to_string(),
    });
    if parts.method == Method::POST {
        reply["scope"] = scope.clone().into();
        reply["token_type"] = "Bearer".into();
    }
    if asked.field("grant_type") == TOKEN_EXCHANGE {
        reply["issued_token_type"] = ACCESS_TOKEN.into();
    }
    if let Some(token) = granted.refresh_token {
        reply["refresh_token"] = token.into();
    }
    let mut response = json(reply.to_string().into_bytes());
    let (principal, id) = (granted.identity.name, issued.id);
    response.extensions_mut().insert(Issued { principal, id, scope });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What a token was issued for; an extension of the response, for the audit log.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) principal: String,
    /// Of the token (`jti`).
    pub(crate) id: String,
    pub(crate) scope: String,
}

/// The public keys of our tokens (JSON Web Key Set, RFC 7517), at `/auth/jwks.json`.
pub(crate) fn keys(service: &Service) -> Answer {
    let authority = service.authority.now();
    let keys = authority.tokens().public_keys(authority.now());
    let mut response = json(keys.to_string().into_bytes());
    // Shorter than the time from the making of a key to its first signature.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=30"));
    Ok(response)
}

impl Asked<'_> {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_default()
    }

    /// A token for another service is of no use here.
    fn check_service(&self) -> Result<(), Refusal> {
        match self.field("service") {
            "" | SERVICE => Ok(()),
            other => {
                Err(unsupported(format!("this is the token service of {SERVICE}, not {other:?}")))
            }
        }
    }

    /// GET: credentials in a Basic header, or none for an anonymous token.
    /// A client certificate stands for somebody too.
    async fn by_basic(&self, parts: &Parts, peer: &Peer) -> Result<Granted, Refusal> {
        let Some((scheme, credentials)) = authorization(&parts.headers) else {
            let identity = self.authority.certified(peer).unwrap_or_default();
            return Ok(Granted { identity, until: None, refresh_token: None });
        };
        let (user, password) = Some(credentials)
            .filter(|_| scheme.eq_ignore_ascii_case("basic"))
            .and_then(decode_basic)
            .ok_or_else(wrong_credentials)?;
        self.login(&user, &password, self.field("offline_token") == "true").await
    }

    /// POST: a password or a refresh token in a form.
    async fn by_form(&self) -> Result<Granted, Refusal> {
        match self.field("grant_type") {
            "password" => {
                let wants_refresh = self.field("access_type") == "offline";
                self.login(self.field("username"), self.field("password"), wants_refresh).await
            }
            "refresh_token" => self.by_refresh_token(self.field("refresh_token")).await,
            TOKEN_EXCHANGE => self.by_exchange().await,
            other => Err(unsupported(format!("grant_type {other:?} is not supported"))),
        }
    }

    async fn login(
        &self,
        user: &str,
        password: &str,
        wants_refresh: bool,
    ) -> Result<Granted, Refusal> {
        let authority = self.authority;
        let login = authority.login(user, password, self.from, self.now).await;
        let Login { identity, until } = login.map_err(refusal)?;
        // What ends soon must not open the way to something that lasts.
        let may_refresh = wants_refresh && until.is_none();
        let credential = may_refresh.then(|| authority.credential(&identity, self.now));
        let refresh_token = match credential.flatten() {
            Some(credential) => {
                let (subject, client) = (identity.name.clone(), self.client().to_owned());
                let refresh = Refresh { subject, credential, client };
                Some(authority.tokens().refresh_token(refresh, self.now).map_err(failed)?)
            }
            None => None,
        };
        Ok(Granted { identity, until, refresh_token })
    }

    /// A token of an issuer for one of ours (RFC 8693).
    async fn by_exchange(&self) -> Result<Granted, Refusal> {
        let kind = self.field("subject_token_type");
        if !SUBJECT_TOKENS.contains(&kind) {
            return Err(unsupported(format!("subject_token_type {kind:?} is not supported")));
        }
        let token = self.field("subject_token");
        let login = self.authority.exchange(token, self.from, self.now).await;
        let Login { identity, until } = login.map_err(refusal)?;
        Ok(Granted { identity, until, refresh_token: None })
    }

    async fn by_refresh_token(&self, token: &str) -> Result<Granted, Refusal> {
        let authority = self.authority;
        let Ok(refresh) = authority.tokens().verify_refresh(token, self.now) else {
            // What docker login was given under the user name `<token>`.
            let login = authority.exchange(token, self.from, self.now).await;
            let Login { identity, until } = login.map_err(refusal)?;
            return Ok(Granted { identity, until, refresh_token: None });
        };
        let identity = Identity::named(refresh.subject);
        // A user who is gone or has a new password has no old tokens.
        if authority.credential(&identity, self.now) != Some(refresh.credential) {
            return Err(wrong_credentials());
        }
        let is_bound = authority.options().refresh == RefreshBinding::Client;
        if is_bound && refresh.client != self.client() {
            return Err(wrong_credentials());
        }
        Ok(Granted { identity, until: None, refresh_token: Some(token.to_owned()) })
    }

    /// What the client calls itself.
    fn client(&self) -> &str {
        let id = self.field("client_id");
        id.get(..CLIENT_BYTES_MAX).unwrap_or(id)
    }
}

fn unsupported(text: String) -> Refusal {
    Refusal::new(ErrorCode::Unsupported, text).with_status(StatusCode::BAD_REQUEST)
}

fn refusal(error: LoginError) -> Refusal {
    match error {
        LoginError::Wrong => wrong_credentials(),
        LoginError::Wait(wait) => too_many_failures(wait),
        LoginError::Unavailable => issuer_unavailable(),
    }
}

fn wrong_credentials() -> Refusal {
    Refusal::new(ErrorCode::Unauthorized, "wrong user name or password")
}

fn failed(error: TokenError) -> Refusal {
    Refusal::internal(&error)
}
