//! ServiceAccount tokens: signed, bound to an object, checked against the present state.
//!
//! A token is a JWT signed with ES256. It is good only while the account (and the pod or secret it
//! is bound to) exists with the uid the token names, so deleting a pod revokes its tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Api;
use crate::error::{ApiError, FieldError, Reason};
use crate::identity::{SERVICE_ACCOUNTS, User};
use crate::object;
use crate::resources::{PODS, SECRETS, SERVICE_ACCOUNTS as ACCOUNTS};

/// `iss` of every token, and its audience unless another one is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// Lifetime of a token that asks for none, in seconds.
const DEFAULT_SECONDS: i64 = 3600;
/// Shortest lifetime, in seconds.
const SECONDS_MIN: i64 = 600;
/// Longest lifetime, in seconds (a day).
const SECONDS_MAX: i64 = 86_400;

/// Signs and verifies ServiceAccount tokens.
pub struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
    /// Coordinates of the public key, for the key set.
    coordinates: (String, String),
}

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the token signing key is not a P-256 key in PKCS #8")]
pub struct BadSigningKey;

/// Claims on the wire (RFC 7519 and the `kubernetes.io` private claim).
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: String,
    jti: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Value,
}

impl Tokens {
    /// Reads the signing key.
    ///
    /// # Errors
    /// When the text is no P-256 key.
    pub fn new(key_pem: &str) -> Result<Self, BadSigningKey> {
        let pair = rcgen::KeyPair::from_pem(key_pem).map_err(|_| BadSigningKey)?;
        // Uncompressed point: 04, x, y.
        let point = pair.public_key_raw();
        if point.len() != 65 {
            return Err(BadSigningKey);
        }
        let coordinates =
            (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        let key_id = {
            use sha2::{Digest, Sha256};
            URL_SAFE_NO_PAD.encode(Sha256::digest(point))
        };
        let verifying = DecodingKey::from_ec_components(&coordinates.0, &coordinates.1)
            .map_err(|_| BadSigningKey)?;
        let signing = EncodingKey::from_ec_der(pair.serialized_der());
        Ok(Self { signing, verifying, key_id, coordinates })
    }

    /// The public key as a JSON Web Key Set (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id,
            "x": self.coordinates.0, "y": self.coordinates.1,
        }]})
    }

    /// Answers a `TokenRequest` for a service account and returns it with its `status`.
    ///
    /// # Errors
    /// 404 for a missing account, 409 for a bound object that is missing or another one, 422 for a
    /// lifetime below ten minutes.
    pub fn issue(
        &self,
        api: &Api,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: Timestamp,
    ) -> Result<Value, ApiError> {
        let account = api.get(&ACCOUNTS, namespace, name)?;
        let seconds = lifetime(&request, name)?;
        let mut audiences: Vec<String> = object::list(&request, &["spec", "audiences"])
            .iter()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": object::uid(&account)},
        });
        bind(api, namespace, &request, &mut kubernetes)?;
        let issued = now.as_second();
        let claims = Claims {
            aud: audiences.clone(),
            exp: issued + seconds,
            iat: issued,
            nbf: issued,
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes,
        };
        let header = Header {
            kid: Some(self.key_id.clone()),
            typ: Some("JWT".to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        let token =
            jsonwebtoken::encode(&header, &claims, &self.signing).map_err(ApiError::internal)?;
        let expiry = Timestamp::from_second(issued + seconds).map_err(ApiError::internal)?;
        object::set(&mut request, &["kind"], "TokenRequest");
        object::set(&mut request, &["apiVersion"], "authentication.k8s.io/v1");
        object::set(
            &mut request,
            &["metadata"],
            json!({
                "name": name, "namespace": namespace, "creationTimestamp": object::format_time(now),
            }),
        );
        object::set(&mut request, &["spec", "audiences"], audiences);
        object::set(&mut request, &["spec", "expirationSeconds"], seconds);
        object::set(
            &mut request,
            &["status"],
            json!({
                "token": token, "expirationTimestamp": object::format_time(expiry),
            }),
        );
        Ok(request)
    }

    /// The user of a token, if it is genuine, unexpired, for one of these audiences, and everything
    /// it is bound to still exists.
    pub fn verify(
        &self,
        api: &Api,
        token: &str,
        audiences: &[&str],
    ) -> Option<(User, Vec<String>)> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.leeway = 10;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation).ok()?.claims;
        let accepted: Vec<String> = claims
            .aud
            .iter()
            .filter(|audience| audiences.contains(&audience.as_str()))
            .cloned()
            .collect();
        if accepted.is_empty() {
            return None;
        }
        let bound = &claims.kubernetes;
        let namespace = object::text(bound, &["namespace"]);
        let name = object::text(bound, &["serviceaccount", "name"]);
        let account = api.get(&ACCOUNTS, namespace, name).ok()?;
        let genuine = object::uid(&account) == object::text(bound, &["serviceaccount", "uid"])
            && !is_gone(api, &PODS, namespace, bound.get("pod"))
            && !is_gone(api, &SECRETS, namespace, bound.get("secret"));
        if !genuine {
            return None;
        }
        let namespace_group = format!("{SERVICE_ACCOUNTS}:{namespace}");
        let mut user = User::authenticated(&claims.sub, &[SERVICE_ACCOUNTS, &namespace_group]);
        user.uid = object::uid(&account).to_owned();
        for (key, path) in [("pod-name", ["pod", "name"]), ("pod-uid", ["pod", "uid"])] {
            let value = object::text(bound, &path);
            if !value.is_empty() {
                let key = format!("authentication.kubernetes.io/{key}");
                user.extra.insert(key, vec![value.to_owned()]);
            }
        }
        let id = format!("JTI={}", claims.jti);
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
        Some((user, accepted))
    }
}

fn lifetime(request: &Value, name: &str) -> Result<i64, ApiError> {
    let seconds =
        object::integer(request, &["spec", "expirationSeconds"]).unwrap_or(DEFAULT_SECONDS);
    if seconds < SECONDS_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        let field = FieldError::invalid("spec.expirationSeconds", &json!(seconds), detail);
        let mut error = ApiError::invalid(&ACCOUNTS, name, &[field]);
        error.kind = Some("TokenRequest".to_owned());
        error.message =
            error.message.replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
        return Err(error);
    }
    Ok(seconds.min(SECONDS_MAX))
}

/// Adds the bound object of a request to the private claim.
fn bind(api: &Api, namespace: &str, request: &Value, claim: &mut Value) -> Result<(), ApiError> {
    let Some(reference) = object::at(request, &["spec", "boundObjectRef"]) else { return Ok(()) };
    let (kind, name) = (object::text(reference, &["kind"]), object::text(reference, &["name"]));
    let (resource, key) = match kind {
        "Pod" => (&PODS, "pod"),
        "Secret" => (&SECRETS, "secret"),
        other => {
            let message = format!("cannot bind token for unsupported kind {other:?}");
            return Err(ApiError::new(Reason::BadRequest, message));
        }
    };
    let bound = api.get(resource, namespace, name)?;
    let (wanted, uid) = (object::text(reference, &["uid"]), object::uid(&bound));
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    claim[key] = json!({"name": name, "uid": uid});
    let node = object::text(&bound, &["spec", "nodeName"]);
    if key == "pod" && !node.is_empty() {
        claim["node"] = json!({"name": node});
    }
    Ok(())
}

fn is_gone(
    api: &Api,
    resource: &'static crate::resources::Resource,
    namespace: &str,
    bound: Option<&Value>,
) -> bool {
    let Some(bound) = bound else { return false };
    let found: Option<Arc<Value>> =
        api.get(resource, namespace, object::text(bound, &["name"])).ok();
    found.is_none_or(|found| object::uid(&found) != object::text(bound, &["uid"]))
}
