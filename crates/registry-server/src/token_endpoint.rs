//! The token endpoint, GET and OAuth2 POST (distribution token authentication specification).

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use oci_model::ErrorCode;

use crate::auth::{ACCESS_LIFE, Access, Identity, SERVICE, Scope, TokenError, decode_basic};
use crate::body::{RequestBody, read_whole};
use crate::refusal::Refusal;
use crate::route::Query;
use crate::service::{Answer, Service, json};

/// Largest form of a token request, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// What goes into a reply.
struct Grant {
    user: String,
    access: Access,
    refresh_token: Option<String>,
}

/// Answers a token request.
pub(crate) async fn answer(
    service: &Service,
    method: &Method,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &mut RequestBody,
) -> Answer {
    let grant = match *method {
        Method::GET => by_basic(service, query.unwrap_or_default(), headers).await?,
        Method::POST => {
            let form = read_whole(body, FORM_BYTES_MAX).await?;
            let form = String::from_utf8_lossy(&form);
            by_form(service, &Query::parse_form(&form)).await?
        }
        _ => return Err(Refusal::method()),
    };
    let now = SystemTime::now();
    let scope = grant.access.to_scopes();
    let authority = service.authority.now();
    let token =
        authority.tokens().access_token(&grant.user, grant.access.0, now).map_err(failed)?;
    let issued_at = jiff::Timestamp::try_from(now)
        .map_err(|error| Refusal::internal(&error))?
        .strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut reply = serde_json::json!({
        "token": token,
        "access_token": token,
        "expires_in": ACCESS_LIFE.as_secs(),
        "issued_at": issued_at.to_string(),
    });
    if *method == Method::POST {
        reply["scope"] = scope.into();
    }
    if let Some(token) = grant.refresh_token {
        reply["refresh_token"] = token.into();
    }
    let mut response = json(reply.to_string().into_bytes());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// GET: credentials in a Basic header, or none for an anonymous token.
async fn by_basic(service: &Service, query: &str, headers: &HeaderMap) -> Result<Grant, Refusal> {
    let query = Query::parse_form(query);
    check_service(&query)?;
    let user = match headers.get(header::AUTHORIZATION) {
        None => String::new(),
        Some(value) => {
            let (scheme, credentials) =
                value.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
            let (user, password) = Some(credentials)
                .filter(|_| scheme.eq_ignore_ascii_case("basic"))
                .and_then(decode_basic)
                .ok_or_else(wrong_credentials)?;
            check_password(service, &user, &password).await?;
            user
        }
    };
    let access = service
        .authority
        .now()
        .grant(&Identity::named(user.as_str()), &Scope::parse_all(query.all("scope")));
    Ok(Grant { user, access, refresh_token: None })
}

/// POST: a password or a refresh token in a form.
async fn by_form(service: &Service, form: &Query) -> Result<Grant, Refusal> {
    check_service(form)?;
    let authority = service.authority.now();
    let field = |name: &str| form.get(name).unwrap_or_default().to_owned();
    let (user, refresh_token) = match field("grant_type").as_str() {
        "password" => {
            let user = field("username");
            check_password(service, &user, &field("password")).await?;
            let refresh_token = match authority.password_fingerprint(&user) {
                Some(password) if field("access_type") == "offline" => {
                    let tokens = authority.tokens();
                    let now = SystemTime::now();
                    Some(tokens.refresh_token(&user, password, now).map_err(failed)?)
                }
                Some(_) | None => None,
            };
            (user, refresh_token)
        }
        "refresh_token" => {
            let token = field("refresh_token");
            let (user, password) =
                authority.tokens().verify_refresh(&token).map_err(|_| wrong_credentials())?;
            // A user who is gone or has a new password has no old tokens.
            if authority.password_fingerprint(&user) != Some(password) {
                return Err(wrong_credentials());
            }
            (user, Some(token))
        }
        other => {
            return Err(Refusal::new(
                ErrorCode::Unsupported,
                format!("grant_type {other:?} is not supported"),
            )
            .with_status(StatusCode::BAD_REQUEST));
        }
    };
    let access =
        authority.grant(&Identity::named(user.as_str()), &Scope::parse_all(form.all("scope")));
    Ok(Grant { user, access, refresh_token })
}

async fn check_password(service: &Service, user: &str, password: &str) -> Result<(), Refusal> {
    if service.authority.now().check_password(user, password).await {
        return Ok(());
    }
    tracing::info!(user, "wrong user name or password");
    Err(wrong_credentials())
}

/// A token for another service is of no use here.
fn check_service(query: &Query) -> Result<(), Refusal> {
    match query.get("service") {
        None | Some("" | SERVICE) => Ok(()),
        Some(other) => Err(Refusal::new(
            ErrorCode::Unsupported,
            format!("this is the token service of {SERVICE}, not {other:?}"),
        )
        .with_status(StatusCode::BAD_REQUEST)),
    }
}

fn wrong_credentials() -> Refusal {
    Refusal::new(ErrorCode::Unauthorized, "wrong user name or password")
}

fn failed(error: TokenError) -> Refusal {
    Refusal::internal(&error)
}
