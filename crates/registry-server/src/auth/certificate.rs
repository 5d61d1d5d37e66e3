//! Who a client certificate stands for. The listener has checked its chain, its times and that the
//! client has the key.

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::federation::{ClaimRule, apply_claim_rules};
use super::identity::Identity;

/// The first part of the names of those who are known by certificate.
pub(crate) const ISSUER: &str = "cert";

/// Who the rules make of a certificate; nobody if none matches. Its claims are `cn`, `dns` and
/// `uri` (the first of each; the latter is a SPIFFE id where there is one), the lists `dnses` and
/// `uris`, and `sub`: the URI, or else the common name.
pub(crate) fn identify(certificate: &CertificateDer<'_>, rules: &[ClaimRule]) -> Option<Identity> {
    if rules.is_empty() {
        return None;
    }
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    apply_claim_rules(ISSUER, rules, &claims(&parsed))
}

fn claims(certificate: &X509Certificate<'_>) -> Value {
    let (mut dnses, mut uris) = (Vec::new(), Vec::new());
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dnses.push(*name),
                GeneralName::URI(name) => uris.push(*name),
                _ => {}
            }
        }
    }
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    let mut claims = json!({ "dnses": dnses, "uris": uris });
    for (claim, value) in [
        ("cn", common_name),
        ("dns", dnses.first().copied()),
        ("uri", uris.first().copied()),
        ("sub", uris.first().copied().or(common_name)),
    ] {
        if let Some(value) = value {
            claims[claim] = value.into();
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common_name: &str, uris: &[&str], names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        for uri in uris {
            let uri = (*uri).try_into().expect("ASCII");
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn names_of_a_certificate_make_a_principal() {
        let spiffe = "spiffe://cluster.example/ns/ci/sa/builder";
        let full = certificate("builder", &[spiffe], &["a.example", "b.example"]);
        let plain = certificate("node-1", &[], &[]);
        let rule = |claim: &str, pattern: &str, principal: Option<&str>| ClaimRule {
            claims: [(claim.to_owned(), pattern.to_owned())].into(),
            principal: principal.map(str::to_owned),
            groups: vec!["machines".to_owned()],
            groups_claim: None,
        };
        for (certificate, rule, expected) in [
            (&full, rule("uri", "spiffe://cluster.example/ns/ci/sa/*", None), Some(spiffe)),
            (&full, rule("uri", "spiffe://cluster.example/ns/prod/**", None), None),
            (&full, rule("dnses", "b.example", Some("{dns}")), Some("a.example")),
            (&full, rule("cn", "builder", Some("{cn}")), Some("builder")),
            (&plain, rule("cn", "node-*", None), Some("node-1")),
            (&plain, rule("uri", "**", None), None),
        ] {
            let found = identify(certificate, std::slice::from_ref(&rule));
            let expected = expected.map(|name| Identity {
                name: format!("cert:{name}"),
                groups: vec!["machines".to_owned()],
            });
            assert_eq!(found, expected, "{rule:?}");
        }
        assert_eq!(identify(&full, &[]), None);
        let nonsense = CertificateDer::from(vec![0x30, 0x80, 1]);
        assert_eq!(identify(&nonsense, &[rule("cn", "**", None)]), None);
    }
}
