//! Registry tokens of ECR.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code;
use super::super::{
    CloudCredential, CloudError, Method, Performer, RegistryHost, Request, Response, by_our_clock,
    half_life,
};
use super::PROVIDER;
use super::endpoints::{EcrHost, Endpoint};
use super::identity::{Chain, Found, endpoint_url};
use super::sigv4::{AwsCredentials, signed};
use crate::{RegistryAuth, Secret};

const STEP: &str = "GetAuthorizationToken";

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct EcrOptions {
    /// A profile of the AWS config files, before anything in the environment.
    pub profile: Option<String>,
    /// Whether a profile may have a program run (`credential_process`).
    pub allow_processes: bool,
    /// Whether a pod whose service account names no role gets nothing, not what the node has.
    pub require_role: bool,
    /// Whether the public gallery is asked for a token too; it can be read without.
    pub public_gallery: bool,
}

/// For whom a token is.
#[derive(Clone, Copy, Debug, Default)]
pub struct EcrRequest<'a> {
    /// The token of the pod's service account, for audience `sts.amazonaws.com`.
    pub service_account_token: Option<&'a Secret>,
    /// The role that the service account names in its annotation
    /// `eks.amazonaws.com/ecr-role-arn`.
    pub role: Option<&'a str>,
}

/// A credential for a registry of ECR; `None` if the host is none, or one that needs no credential.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &EcrOptions,
    request: EcrRequest<'_>,
) -> Result<Option<CloudCredential>, CloudError> {
    let Some(ecr) = EcrHost::of(host) else { return Ok(None) };
    if matches!(ecr, EcrHost::Public { .. }) && !options.public_gallery {
        return Ok(None);
    }
    let endpoint = endpoint_of(performer, &ecr)?;
    let chain = Chain {
        performer,
        region: &endpoint.region,
        profile: options.profile.as_deref(),
        allow_processes: options.allow_processes,
    };
    let (identity, source) = identity(&chain, options, request)?;
    let response = authorization(performer, &ecr, &endpoint, &identity)?;
    let token = response
        .json()
        .ok_or("the answer is no JSON")
        .and_then(|answer| Token::read(&ecr, &answer))
        .map_err(|reason| CloudError::new(PROVIDER, STEP, endpoint.url.clone(), reason))?;
    // The token dies with the credentials that asked for it.
    let ends = match (token.expires_at, identity.expires_at) {
        (Some(token), Some(identity)) => Some(token.min(identity)),
        (token, identity) => token.or(identity),
    };
    let ends = ends.map(|ends| by_our_clock(&response, performer.now(), ends));
    Ok(Some(CloudCredential {
        host: host.as_str().to_owned(),
        auth: RegistryAuth::basic(token.username, token.password),
        expires_at: ends,
        keep_for: ends.map_or(Duration::ZERO, |ends| half_life(performer.now(), ends)),
        source,
    }))
}

fn identity(
    chain: &Chain<'_>,
    options: &EcrOptions,
    request: EcrRequest<'_>,
) -> Result<Found, CloudError> {
    let Some(token) = request.service_account_token else { return chain.find() };
    let role =
        request.role.map(str::to_owned).or_else(|| chain.performer.variable("AWS_ECR_ROLE_ARN"));
    match role {
        Some(role) => chain.of_service_account(&role, token),
        None if options.require_role => {
            Err(CloudError::new(PROVIDER, "find role", "service account", "it names no role")
                .hint("annotate it with eks.amazonaws.com/ecr-role-arn"))
        }
        None => chain.find(),
    }
}

fn endpoint_of(performer: &dyn Performer, ecr: &EcrHost) -> Result<Endpoint, CloudError> {
    let mut endpoint = ecr.endpoint();
    let (service, special) = match ecr {
        EcrHost::Public { .. } => ("ECR_PUBLIC", false),
        EcrHost::Private { fips, dual_stack, .. } => ("ECR", *fips || *dual_stack),
    };
    if let Some(url) = endpoint_url(performer, service)? {
        if special {
            return Err(CloudError::new(
                PROVIDER,
                STEP,
                url,
                "a configured endpoint cannot stand for a FIPS or dual-stack registry",
            ));
        }
        endpoint.url = url;
    }
    Ok(endpoint)
}

/// Asks for a token, once more with a corrected clock if ours is off.
fn authorization(
    performer: &dyn Performer,
    ecr: &EcrHost,
    endpoint: &Endpoint,
    identity: &AwsCredentials,
) -> Result<Response, CloudError> {
    let target = match ecr {
        EcrHost::Private { .. } => "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        EcrHost::Public { .. } => "SpencerFrontendService.GetAuthorizationToken",
    };
    let request = Request::to_cloud(Method::Post, format!("{}/", endpoint.url))
        .body("application/x-amz-json-1.1", Secret::new("{}"))
        .header("x-amz-target", Secret::new(target));
    let mut clock = Clock::default();
    attempts(performer, Pace::CLOUD, |_| {
        loop {
            let request =
                signed(request.clone(), endpoint, identity, clock.correct(performer.now()));
            let response = performer
                .send(&request)
                .map_err(|error| CloudError::unsent(PROVIDER, STEP, &*endpoint.url, &error))?;
            if response.is_success() {
                return Ok(response);
            }
            let code = error_code(&response);
            let is_skew = matches!(
                code.as_str(),
                "InvalidSignatureException" | "RequestExpired" | "RequestTimeTooSkewed"
            );
            if is_skew && clock.set(&response, performer.now()) {
                continue;
            }
            return Err(refusal(&response, &code, endpoint));
        }
    })
}

/// How far the service's clock is from ours.
#[derive(Default)]
struct Clock {
    ahead: Duration,
    behind: Duration,
    was_set: bool,
}

impl Clock {
    /// Takes the service's clock from an answer; says whether that is news worth another try.
    fn set(&mut self, response: &Response, now: SystemTime) -> bool {
        let date = response.header("date").and_then(super::super::parse_http_date);
        let Some(theirs) = date.filter(|_| !self.was_set) else { return false };
        self.was_set = true;
        self.ahead = theirs.duration_since(now).unwrap_or_default();
        self.behind = now.duration_since(theirs).unwrap_or_default();
        self.ahead.max(self.behind) > Duration::from_secs(60)
    }

    fn correct(&self, now: SystemTime) -> SystemTime {
        now + self.ahead - self.behind
    }
}

/// `AccessDeniedException` of `com.amazonaws.ecr#AccessDeniedException:extra`.
fn error_code(response: &Response) -> String {
    let document = response.json().unwrap_or_default();
    let named = document["__type"].as_str().or_else(|| response.header("x-amzn-errortype"));
    let named = named.unwrap_or_default();
    let named = named.rsplit_once('#').map_or(named, |(_, name)| name);
    code(named.split(':').next().unwrap_or(named)).to_owned()
}

fn refusal(response: &Response, code: &str, endpoint: &Endpoint) -> CloudError {
    const PASSING: [&str; 4] =
        ["ThrottlingException", "TooManyRequestsException", "RequestTimeout", "ServerException"];
    let retryable = is_passing(response.status) || PASSING.contains(&code);
    let reason = format!("status {} {code}", response.status);
    let error = CloudError::new(PROVIDER, STEP, endpoint.url.clone(), reason.trim_end())
        .retryable_by(response, retryable)
        .request_id(response.header("x-amzn-requestid"));
    match code {
        "AccessDeniedException" if endpoint.service == "ecr-public" => error.hint(
            "the identity needs ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken",
        ),
        "AccessDeniedException" => {
            error.hint("the identity needs ecr:GetAuthorizationToken on resource *")
        }
        "UnrecognizedClientException" | "ExpiredTokenException" => {
            error.hint("the access key is not valid or has ended")
        }
        "InvalidSignatureException" => {
            error.hint("the secret access key is wrong, or the clock of this machine is off")
        }
        _ => error,
    }
}

/// User, password and end of a token.
struct Token {
    username: String,
    password: Secret,
    expires_at: Option<SystemTime>,
}

impl Token {
    /// Reads an answer: a private registry's is a list, the gallery's an object.
    fn read(ecr: &EcrHost, answer: &Value) -> Result<Self, &'static str> {
        let data = &answer["authorizationData"];
        let data = match ecr {
            EcrHost::Private { .. } => data.as_array().and_then(|list| list.first()),
            EcrHost::Public { .. } => Some(data).filter(|data| data.is_object()),
        };
        let data = data.ok_or("the answer holds no authorizationData")?;
        let token = data["authorizationToken"].as_str().ok_or("the answer holds no token")?;
        let decoded = STANDARD.decode(token).map(zeroize::Zeroizing::new);
        let decoded = decoded.map_err(|_| "the token is not base64")?;
        let text = std::str::from_utf8(&decoded).map_err(|_| "the token is not text")?;
        let (username, password) = text.split_once(':').ok_or("the token has no colon")?;
        Ok(Self {
            username: username.to_owned(),
            password: Secret::new(password),
            expires_at: expiry(&data["expiresAt"]),
        })
    }
}

/// Seconds since 1970, perhaps with a fraction, or a time in text.
fn expiry(value: &Value) -> Option<SystemTime> {
    if let Some(text) = value.as_str() {
        return super::sts::parse_time(text);
    }
    let seconds = value.as_f64().filter(|seconds| (0.0..=1e11).contains(seconds))?;
    Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}
