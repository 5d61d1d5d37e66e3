//! The private certificate authority and what it signs.
//!
//! Everything lives in `<cluster>/pki`, mode 0600 in a 0700 directory: `ca`, `server`, `admin` and
//! `node`, each as `.crt` and `.key`, and `service-account.key`, which signs tokens. Keys are ECDSA
//! P-256. Leaf certificates are renewed at start when they are near their end or name other hosts.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{MASTERS, NODES, User};

/// Days a certificate authority is valid.
const CA_DAYS: i64 = 3650;
/// Days a leaf certificate is valid.
const LEAF_DAYS: i64 = 365;
/// Leaf certificates with fewer days left are renewed at start.
const RENEW_BELOW_DAYS: i64 = 60;

/// Why the keys and certificates are not usable.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A stored key or certificate does not parse.
    #[error("{} is damaged; remove {} to make new keys", .path.display(), .directory.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The directory that can be removed to start over.
        directory: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {subject}")]
    Sign {
        /// Whose certificate.
        subject: &'static str,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct CertifiedKey {
    /// Certificate, PEM.
    pub certificate_pem: String,
    /// Private key, PEM (PKCS #8). Never logged: this type has no `Debug`.
    pub key_pem: String,
}

/// Every key and certificate of the control plane.
pub struct Pki {
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// What the HTTPS server presents.
    pub server: CertifiedKey,
    /// The administrator's client certificate (group `system:masters`).
    pub admin: CertifiedKey,
    /// The node's client certificate (group `system:nodes`).
    pub node: CertifiedKey,
    /// The key that signs ServiceAccount tokens, PEM (PKCS #8).
    pub service_account_key_pem: String,
}

/// What a leaf certificate says.
struct Leaf {
    file: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    hosts: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
}

impl Pki {
    /// Loads `<cluster>/pki`, making or renewing what is missing, old or for other hosts.
    ///
    /// # Errors
    /// When a file cannot be read, written or parsed.
    pub fn load_or_create(
        directory: &Path,
        hosts: &[String],
        node_name: &str,
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
        let authority = Authority::load_or_create(directory, now)?;
        let server = authority.leaf(
            &Leaf {
                file: "server",
                common_name: "shipway-apiserver".to_owned(),
                organization: None,
                hosts: hosts.to_vec(),
                usage: ExtendedKeyUsagePurpose::ServerAuth,
            },
            now,
        )?;
        let admin = authority.leaf(
            &Leaf {
                file: "admin",
                common_name: "kubernetes-admin".to_owned(),
                organization: Some(MASTERS),
                hosts: Vec::new(),
                usage: ExtendedKeyUsagePurpose::ClientAuth,
            },
            now,
        )?;
        let node = authority.leaf(
            &Leaf {
                file: "node",
                common_name: format!("system:node:{node_name}"),
                organization: Some(NODES),
                hosts: Vec::new(),
                usage: ExtendedKeyUsagePurpose::ClientAuth,
            },
            now,
        )?;
        let (_, service_account_key_pem) = load_or_create_key(directory, "service-account")?;
        Ok(Self { ca_pem: authority.certificate_pem, server, admin, node, service_account_key_pem })
    }
}

struct Authority {
    directory: PathBuf,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    created: bool,
}

impl Authority {
    fn load_or_create(directory: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let (key, _) = load_or_create_key(directory, "ca")?;
        let mut params = params("shipway-ca", None, now, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let path = directory.join("ca.crt");
        let stored = read_optional(&path)?;
        let usable = stored
            .filter(|pem| certificate_matches(pem, &key, now, RENEW_BELOW_DAYS, &[], "shipway-ca"));
        let created = usable.is_none();
        let certificate_pem = match usable {
            Some(pem) => pem,
            None => {
                let certificate = params.self_signed(&key).map_err(|source| PkiError::Sign {
                    subject: "the certificate authority",
                    source,
                })?;
                write_private(&path, &certificate.pem())?;
                certificate.pem()
            }
        };
        // Signing needs the authority's name and key only, and both are fixed above.
        Ok(Self {
            directory: directory.to_owned(),
            certificate_pem,
            issuer: Issuer::new(params, key),
            created,
        })
    }

    fn leaf(&self, leaf: &Leaf, now: Timestamp) -> Result<CertifiedKey, PkiError> {
        let (key, key_pem) = load_or_create_key(&self.directory, leaf.file)?;
        let path = self.directory.join(format!("{}.crt", leaf.file));
        let stored = read_optional(&path)?.filter(|pem| {
            !self.created
                && certificate_matches(
                    pem,
                    &key,
                    now,
                    RENEW_BELOW_DAYS,
                    &leaf.hosts,
                    &leaf.common_name,
                )
        });
        if let Some(certificate_pem) = stored {
            return Ok(CertifiedKey { certificate_pem, key_pem });
        }
        let sign = |source| PkiError::Sign { subject: leaf.file, source };
        let mut params = params(&leaf.common_name, leaf.organization, now, LEAF_DAYS);
        for host in &leaf.hosts {
            let name = match host.parse() {
                Ok(address) => rcgen::SanType::IpAddress(address),
                Err(_) => rcgen::SanType::DnsName(host.clone().try_into().map_err(sign)?),
            };
            params.subject_alt_names.push(name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![leaf.usage.clone()];
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign)?;
        write_private(&path, &certificate.pem())?;
        Ok(CertifiedKey { certificate_pem: certificate.pem(), key_pem })
    }
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    now: Timestamp,
    days: i64,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    // From the day before: a client whose clock is a little behind must not refuse us.
    let (year, month, day) = date(now - SignedDuration::from_hours(24));
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date(now + SignedDuration::from_hours(24 * days));
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params
}

/// Year, month and day in UTC.
fn date(at: Timestamp) -> (i32, u8, u8) {
    let date = at.to_zoned(TimeZone::UTC).date();
    // Months and days are 1 to 31, never negative.
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

/// Whether a stored certificate is for this key, lasts long enough, and names what it should.
fn certificate_matches(
    pem: &str,
    key: &KeyPair,
    now: Timestamp,
    days_left_min: i64,
    hosts: &[String],
    common_name: &str,
) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let subject =
        certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let days_left = (certificate.validity().not_after.timestamp() - now.as_second()) / 86_400;
    let named = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| names.value.general_names.len())
        .unwrap_or(0);
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
        && subject == Some(common_name)
        && days_left_min <= days_left
        && named == hosts.len()
        && hosts.iter().all(|host| names_host(&certificate, host))
}

fn names_host(certificate: &X509Certificate<'_>, host: &str) -> bool {
    use x509_parser::extensions::GeneralName;
    let wanted: Option<std::net::IpAddr> = host.parse().ok();
    let bytes = wanted.map(|address| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    });
    certificate.subject_alternative_name().ok().flatten().is_some_and(|names| {
        names.value.general_names.iter().any(|name| match (name, &bytes) {
            (GeneralName::IPAddress(have), Some(bytes)) => *have == bytes.as_slice(),
            (GeneralName::DNSName(have), None) => *have == host,
            _ => false,
        })
    })
}

/// The user a verified client certificate stands for: CN is the name, each O a group.
pub fn user_of_certificate(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = certificate
        .subject()
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok())
        .collect();
    Some(User::authenticated(name, &groups))
}

/// Parses a PEM certificate.
pub fn certificate_der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// Parses a PEM private key.
pub fn key_der(pem: &str) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()
}

fn load_or_create_key(directory: &Path, file: &'static str) -> Result<(KeyPair, String), PkiError> {
    let path = directory.join(format!("{file}.key"));
    if let Some(pem) = read_optional(&path)? {
        let key = KeyPair::from_pem(&pem).map_err(|_| PkiError::Damaged {
            path: path.clone(),
            directory: directory.to_owned(),
        })?;
        return Ok((key, pem));
    }
    let key = KeyPair::generate().map_err(|source| PkiError::Sign { subject: file, source })?;
    let pem = key.serialize_pem();
    write_private(&path, &pem)?;
    Ok((key, pem))
}

fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.to_owned(), source }),
    }
}

/// Writes a file of mode 0600 so that it is either whole or absent.
///
/// # Errors
/// Whatever the file system refuses.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let staging = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staging)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&staging, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
    }

    #[test]
    fn certificates_are_kept_until_they_are_old_or_name_other_hosts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().expect("time");
        let load =
            |hosts: &[String], now| Pki::load_or_create(dir.path(), hosts, "n1", now).expect("pki");
        let first = load(&hosts(), now);
        let again = load(&hosts(), now + SignedDuration::from_hours(24));
        assert_eq!(first.server.certificate_pem, again.server.certificate_pem);
        assert_eq!(first.ca_pem, again.ca_pem);

        let mut more = hosts();
        more.push("example.test".to_owned());
        let other = load(&more, now);
        assert_ne!(first.server.certificate_pem, other.server.certificate_pem);
        assert_eq!(first.admin.certificate_pem, other.admin.certificate_pem);

        let late = load(&more, now + SignedDuration::from_hours(24 * 320));
        assert_ne!(other.admin.certificate_pem, late.admin.certificate_pem);
        assert_eq!(first.ca_pem, late.ca_pem);
    }

    #[test]
    fn client_certificates_name_user_and_group() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pki = Pki::load_or_create(dir.path(), &hosts(), "n1", Timestamp::now()).expect("pki");
        let node = certificate_der(&pki.node.certificate_pem).expect("pem");
        let user = user_of_certificate(&node).expect("user");
        assert_eq!(user.name, "system:node:n1");
        assert!(user.is_in(NODES) && !user.is_in(MASTERS));
    }

    #[test]
    fn keys_are_readable_by_the_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let pki = dir.path().join("pki");
        Pki::load_or_create(&pki, &hosts(), "n1", Timestamp::now()).expect("pki");
        let mode = fs::metadata(pki.join("ca.key")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::metadata(&pki).expect("dir").permissions().mode() & 0o777, 0o700);
    }
}
