//! Signatures of requests to AWS (Signature Version 4).

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use oci_model::{Algorithm, Hasher};

use super::super::{Method, Request};
use super::endpoints::Endpoint;
use crate::Secret;

/// Credentials of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AwsCredentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Option<Secret>,
    pub(super) expires_at: Option<SystemTime>,
}

/// Adds date, session token and signature to a request whose path is `/` and whose query needs no
/// encoding.
pub(super) fn signed(
    request: Request,
    endpoint: &Endpoint,
    credentials: &AwsCredentials,
    now: SystemTime,
) -> Request {
    let mut request = request.header("x-amz-date", amz_date(now));
    if let Some(token) = &credentials.session_token {
        request = request.header("x-amz-security-token", token.clone());
    }
    let signature = Signature::of(&request, endpoint, credentials, now);
    request.header("authorization", signature.header)
}

/// A signature on its way.
struct Signature {
    #[cfg(test)]
    canonical: String,
    #[cfg(test)]
    signature: String,
    header: Secret,
}

impl Signature {
    fn of(
        request: &Request,
        endpoint: &Endpoint,
        credentials: &AwsCredentials,
        now: SystemTime,
    ) -> Self {
        let host = host_of(&request.url);
        let mut headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (&**name, value.expose().trim())).collect();
        headers.push(("host", host));
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let method = match request.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
        };
        let body = hex(&sha256(request.body.expose().as_bytes()));
        let canonical = zeroize::Zeroizing::new(format!(
            "{method}\n/\n{}\n{lines}\n{names}\n{body}",
            query_of(&request.url)
        ));
        let time = amz_date(now);
        let scope = scope(endpoint, &time);
        let hash = hex(&sha256(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let key = signing_key(&credentials.secret_access_key, endpoint, &time);
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            credentials.access_key_id
        );
        Self {
            #[cfg(test)]
            canonical: hash,
            #[cfg(test)]
            signature,
            header: Secret::new(header),
        }
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// The query in order of names.
fn query_of(url: &str) -> String {
    let mut parts: Vec<&str> =
        url.split_once('?').map_or(Vec::new(), |(_, query)| query.split('&').collect());
    parts.sort_unstable();
    parts.join("&")
}

/// `20261101T000000Z`.
fn amz_date(now: SystemTime) -> String {
    let timestamp = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn scope(endpoint: &Endpoint, time: &str) -> String {
    format!("{}/{}/{}/aws4_request", &time[..8], endpoint.region, endpoint.service)
}

fn signing_key(secret: &Secret, endpoint: &Endpoint, time: &str) -> [u8; 32] {
    let first = zeroize::Zeroizing::new(format!("AWS4{}", secret.expose()));
    let mut key = hmac(first.as_bytes(), &time.as_bytes()[..8]);
    for part in [endpoint.region.as_str(), endpoint.service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    key
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    let digest = hasher.finish();
    let mut hash = [0; 32];
    hash.copy_from_slice(&digest.raw()[..32]);
    hash
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8, message: &[u8]| {
        let mut bytes: Vec<u8> = block.iter().map(|byte| byte ^ pad).collect();
        bytes.extend_from_slice(message);
        sha256(&bytes)
    };
    padded(0x5c, &padded(0x36, message))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn credentials(token: Option<&str>) -> AwsCredentials {
        AwsCredentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new(SECRET),
            session_token: token.map(Secret::new),
            expires_at: None,
        }
    }

    #[test]
    fn the_published_signing_key_comes_out() {
        let endpoint = Endpoint {
            url: "https://iam.amazonaws.com".to_owned(),
            region: "us-east-1".to_owned(),
            service: "iam",
        };
        let key = signing_key(&Secret::new(SECRET), &endpoint, "20150830T123600Z");
        assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    }

    #[test]
    fn requests_for_registry_tokens_have_the_expected_signatures() {
        // Case 10.
        let now = SystemTime::from(Timestamp::from_second(1_793_491_200).expect("a time"));
        for (region, service, target, token, canonical, signature) in [
            (
                "eu-central-1",
                "ecr",
                "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
                None,
                "57c0767fb4003df2ba55133bbfa018071d360d1ac75562e1fa460609abfcb665",
                "c72e920af935ad724314a9493e674ca933aabb4d3ce75790f499d6d28fbf42d6",
            ),
            (
                "eu-central-1",
                "ecr",
                "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
                Some("TOKENEXAMPLE"),
                "476bc0629bc56a101ee0ae18ffe807c4a41d750c3228ab059165ef79578be0cb",
                "32f61ac7426de004e82e6190df83077b05b2055d21465d29eb21e9e1aa5f9d1c",
            ),
            (
                "us-east-1",
                "ecr-public",
                "SpencerFrontendService.GetAuthorizationToken",
                None,
                "bc341bf439e69309e474104a9f4430669eb7c8aa70c2844db2f2a7f097a715b5",
                "b050c870f41d1260b5d7804e88f9c26121170a33083dcea3c9aea3034841af2f",
            ),
            (
                "us-east-1",
                "ecr-public",
                "SpencerFrontendService.GetAuthorizationToken",
                Some("TOKENEXAMPLE"),
                "3d1fc513df9d1c49b182d7a3e53b83660694ee56ecac24e7074ed6b6702a9da2",
                "254ef367d5f666e021a5d31a9fa1c0e55e264f9619ae34baf721680501c618c9",
            ),
        ] {
            let url = format!("https://api.{service}.{region}.amazonaws.com");
            let endpoint = Endpoint { url: url.clone(), region: region.to_owned(), service };
            let mut request = Request::to_cloud(Method::Post, url)
                .body("application/x-amz-json-1.1", Secret::new("{}"))
                .header("x-amz-target", Secret::new(target))
                .header("x-amz-date", amz_date(now));
            if let Some(token) = token {
                request = request.header("x-amz-security-token", Secret::new(token));
            }
            let made = Signature::of(&request, &endpoint, &credentials(token), now);
            assert_eq!((made.canonical.as_str(), made.signature.as_str()), (canonical, signature));
        }
    }
}
