//! Signatures of requests to OCI (HTTP Signatures, draft-cavage-http-signatures-08).

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use jsonwebtoken::{Algorithm, EncodingKey};
use oci_model::Digest;

use super::super::{CloudError, Method, Request};
use super::PROVIDER;
use super::principal::Signer;

/// Adds date and signature; of a POST also what its body is.
pub(super) fn signed(
    request: Request,
    signer: &Signer,
    now: SystemTime,
) -> Result<Request, CloudError> {
    let mut request = request.header("date", http_date(now));
    let mut names = vec!["date", "(request-target)"];
    if signer.signs_host {
        names.push("host");
    }
    if matches!(request.method, Method::Post | Method::Put) {
        let body = request.body.expose().as_bytes();
        let hash = STANDARD.encode(Digest::of(body).raw());
        let length = body.len().to_string();
        request = request.header("content-length", length).header("x-content-sha256", hash);
        names.extend(["content-length", "content-type", "x-content-sha256"]);
    }
    let text = zeroize::Zeroizing::new(signing_text(&request, &names));
    let failed = || CloudError::new(PROVIDER, "sign request", signer.place.as_str(), "no RSA key");
    let key = EncodingKey::from_rsa_pem(signer.key.expose().as_bytes()).map_err(|_| failed())?;
    // PKCS#1 v1.5 with SHA-256 is what JWT calls RS256.
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::RS256)
        .map_err(|_| failed())?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| failed())?;
    let header = format!(
        "Signature version=\"1\",headers=\"{}\",keyId=\"{}\",algorithm=\"rsa-sha256\",\
         signature=\"{}\"",
        names.join(" "),
        signer.key_id.expose(),
        STANDARD.encode(signature)
    );
    Ok(request.header("authorization", header))
}

/// The lines that are signed, in the order of the names.
pub(super) fn signing_text(request: &Request, names: &[&str]) -> String {
    let rest = request.url.split_once("://").map_or(&*request.url, |(_, rest)| rest);
    let (host, target) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let method = match request.method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Put => "put",
    };
    let lines: Vec<String> = names
        .iter()
        .map(|name| match *name {
            "(request-target)" => format!("(request-target): {method} {target}"),
            "host" => format!("host: {host}"),
            name => {
                let header = request.headers.iter().find(|(known, _)| known == name);
                let value = header.map_or("", |(_, value)| value.expose());
                format!("{name}: {value}")
            }
        })
        .collect();
    lines.join("\n")
}

/// `Sun, 01 Nov 2026 00:00:00 GMT` (RFC 9110, section 5.6.7).
pub(super) fn http_date(now: SystemTime) -> String {
    let timestamp = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
