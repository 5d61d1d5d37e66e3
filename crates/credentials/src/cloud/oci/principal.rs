//! Whose signature: a workload of OKE, a resource, a person, the instance.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::RsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde_json::json;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::label::{Region, cluster_server};
use super::super::{CloudError, Method, Performer, Reach, Request, Response, overrides};
use super::{OciOptions, PROVIDER, PrincipalKind, config, refusal, signature};
use crate::Secret;

/// Who signs.
pub(super) struct Signer {
    /// What the service knows the key by; with a session it holds the session's token.
    pub(super) key_id: Secret,
    /// The key, in PEM.
    pub(super) key: Secret,
    /// Whether the host is part of what is signed.
    pub(super) signs_host: bool,
    /// Where the key came from, for errors.
    pub(super) place: String,
}

/// The principal that is configured, or the first one that shows.
pub(super) fn signer(
    performer: &dyn Performer,
    options: &OciOptions,
    pod: Option<&Secret>,
) -> Result<(Signer, String), CloudError> {
    if let Some(token) = pod {
        let found = of_workload(performer, Some(token))?;
        return Ok((found, "service account token at OKE".to_owned()));
    }
    let variable = |name| performer.variable(name);
    // The variable is that of Oracle's own provider.
    let named = || match variable("OCIR_AUTH_METHOD")?.as_str() {
        "INSTANCE_PRINCIPAL" => Some(PrincipalKind::Instance),
        "USER_PRINCIPAL" => Some(PrincipalKind::User),
        _ => None,
    };
    let principal = options.principal.or_else(named);
    let wanted = |kind| principal.is_none_or(|wanted| wanted == kind);
    let is_workload = variable("OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH").is_some()
        || principal == Some(PrincipalKind::Workload);
    if wanted(PrincipalKind::Workload) && is_workload {
        return of_workload(performer, None)
            .map(|found| (found, "OKE workload identity".to_owned()));
    }
    if wanted(PrincipalKind::Resource)
        && let Some(version) = variable("OCI_RESOURCE_PRINCIPAL_VERSION")
    {
        return of_resource(performer, &version)
            .map(|found| (found, "resource principal".to_owned()));
    }
    if wanted(PrincipalKind::User)
        && let Some(found) = config::signer(performer, options)?
    {
        return Ok(found);
    }
    if wanted(PrincipalKind::Instance) {
        return of_instance(performer).map(|found| (found, "instance principal".to_owned()));
    }
    Err(CloudError::new(PROVIDER, "find principal", "environment", "the wanted one is not there"))
}

/// A resource principal of version 2.2: token and key by value or in files that rotate.
fn of_resource(performer: &dyn Performer, version: &str) -> Result<Signer, CloudError> {
    const STEP: &str = "resource principal";
    let place = "OCI_RESOURCE_PRINCIPAL_VERSION";
    if version != "2.2" {
        return Err(CloudError::new(PROVIDER, STEP, place, "only version 2.2 is supported"));
    }
    let value = |name: &str| -> Result<Secret, CloudError> {
        let value = performer
            .variable(name)
            .ok_or_else(|| CloudError::new(PROVIDER, STEP, name, "it is not set"))?;
        if value.starts_with('/') {
            return config::read(performer, value.as_ref());
        }
        Ok(Secret::new(value))
    };
    if performer.variable("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE").is_some() {
        let name = "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE";
        return Err(CloudError::new(PROVIDER, STEP, name, "keys with a pass phrase do not work"));
    }
    let token = value("OCI_RESOURCE_PRINCIPAL_RPST")?;
    Ok(Signer {
        key_id: Secret::new(format!("ST${}", token.expose().trim())),
        key: value("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM")?,
        signs_host: true,
        place: "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM".to_owned(),
    })
}

/// Where the API of this cluster is.
pub(super) const SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// A key that lives as long as one exchange.
struct SessionKey {
    pem: Secret,
    /// The public half, SubjectPublicKeyInfo in DER and base64.
    public: String,
}

impl SessionKey {
    fn new(performer: &dyn Performer, step: &'static str) -> Result<Self, CloudError> {
        let failed = |reason: &str| CloudError::new(PROVIDER, step, "session key", reason);
        let pem = performer.rsa_key().map_err(|error| failed(&error))?;
        let key = RsaPrivateKey::from_pkcs8_pem(pem.expose())
            .map_err(|_| failed("it is no RSA key in PKCS#8"))?;
        let public = key
            .to_public_key()
            .to_public_key_der()
            .map_err(|_| failed("its public half cannot be written"))?;
        Ok(Self { pem, public: STANDARD.encode(public.as_bytes()) })
    }

    fn signer(self, token: &str, place: &str) -> Signer {
        let token = token.strip_prefix("ST$").unwrap_or(token);
        let key_id = Secret::new(format!("ST${token}"));
        Signer { key_id, key: self.pem, signs_host: true, place: place.to_owned() }
    }
}

/// A pod of an enhanced OKE cluster: the cluster vouches for its service account. The token is that
/// of the pod that this is, or the given one of another.
fn of_workload(performer: &dyn Performer, pod: Option<&Secret>) -> Result<Signer, CloudError> {
    const STEP: &str = "workload identity";
    const DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let variable = |name| performer.variable(name);
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, SERVER, reason);
    let server = variable(SERVER).ok_or_else(|| match pod {
        None => failed("it is not set: this is no pod"),
        Some(_) => failed("it is not set, and a pod's token goes nowhere else")
            .hint("set it for the provider, to the address of the cluster's Kubernetes API"),
    })?;
    let server = cluster_server(&server)
        .ok_or_else(|| failed("it is neither an address nor one label; nothing was sent"))?;
    let authority = variable("OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH")
        .unwrap_or_else(|| format!("{DIRECTORY}/ca.crt"));
    let authority = config::read(performer, authority.as_ref())?;
    let token = match pod {
        Some(token) => token.clone(),
        None => config::read(performer, format!("{DIRECTORY}/token").as_ref())?,
    };
    let session = SessionKey::new(performer, STEP)?;
    let url = format!("https://{server}:12250/resourcePrincipalSessionTokens");
    let mut request = Request::to_cloud(Method::Post, &*url)
        .header("authorization", format!("Bearer {}", token.expose().trim()))
        .header("opc-request-id", format!("{:016X}", performer.random()))
        .body("application/json", json!({ "podKey": session.public }).to_string());
    request.reach = Reach::Cluster;
    request.authorities = Some(authority.expose().to_owned());
    let response = answer(performer, &request, STEP, &url)?;
    let failed = || CloudError::new(PROVIDER, STEP, &*url, "the answer holds no token");
    // A string of JSON that holds base64 of JSON.
    let text: String = serde_json::from_str(response.body.expose()).map_err(|_| failed())?;
    let decoded = STANDARD.decode(text.trim()).map_err(|_| failed())?;
    let document: serde_json::Value = serde_json::from_slice(&decoded).map_err(|_| failed())?;
    let token = document["token"].as_str().filter(|token| !token.is_empty()).ok_or_else(failed)?;
    Ok(session.signer(token, &url))
}

fn answer(
    performer: &dyn Performer,
    request: &Request,
    step: &'static str,
    place: &str,
) -> Result<Response, CloudError> {
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(request)
            .map_err(|error| CloudError::unsent(PROVIDER, step, place, &error))?;
        if response.is_success() { Ok(response) } else { Err(refusal(&response, step, place)) }
    })
}

/// What the instance tells of itself.
struct Instance {
    certificate: String,
    key: Secret,
    intermediate: String,
    auth_url: String,
}

/// The instance itself: its certificate, which rotates, is exchanged for a session.
fn of_instance(performer: &dyn Performer) -> Result<Signer, CloudError> {
    match exchange_certificate(performer) {
        // It has just been replaced.
        Err(error) if error.reason.starts_with("status 401") => exchange_certificate(performer),
        result => result,
    }
}

fn exchange_certificate(performer: &dyn Performer) -> Result<Signer, CloudError> {
    const STEP: &str = "instance principal";
    let instance = Instance::read(performer)?;
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, &*instance.auth_url, reason);
    let leaf = Leaf::parse(&instance.certificate)
        .ok_or_else(|| failed("the certificate of the instance names no tenancy"))?;
    let session = SessionKey::new(performer, STEP)?;
    let body = json!({
        "certificate": bare(&instance.certificate),
        "publicKey": session.public,
        "intermediateCertificates": [bare(&instance.intermediate)],
        "purpose": "DEFAULT",
    });
    let url = format!("{}/v1/x509", instance.auth_url);
    let request = Request::to_cloud(Method::Post, &*url).body("application/json", body.to_string());
    let signer = Signer {
        key_id: Secret::new(format!("{}/fed-x509/{}", leaf.tenancy, leaf.fingerprint)),
        key: instance.key.clone(),
        signs_host: false,
        place: "instance metadata".to_owned(),
    };
    let request = signature::signed(request, &signer, performer.now())?;
    let response = answer(performer, &request, STEP, &url)?;
    let document = response.json().unwrap_or_default();
    let token = document["token"].as_str().filter(|token| !token.is_empty());
    Ok(session.signer(token.ok_or_else(|| failed("the answer holds no token"))?, &url))
}

impl Instance {
    fn read(performer: &dyn Performer) -> Result<Self, CloudError> {
        const STEP: &str = "instance metadata";
        let base = performer
            .variable("OCI_METADATA_BASE_URL")
            .unwrap_or_else(|| "http://169.254.169.254/opc/v2".to_owned());
        let base = base.trim_end_matches('/').to_owned();
        let get = |base: &str, path: &str, second: bool| -> Result<Response, CloudError> {
            let mut request = Request::to_metadata(Method::Get, format!("{base}/{path}"));
            if second {
                request = request.header("authorization", Secret::new("Bearer Oracle"));
            }
            attempts(performer, Pace::METADATA, |_| {
                let response = performer
                    .send(&request)
                    .map_err(|error| CloudError::no_metadata(PROVIDER, STEP, base, &error))?;
                if is_passing(response.status) {
                    let reason = format!("status {}", response.status);
                    return Err(CloudError::new(PROVIDER, STEP, base, reason).retryable(true));
                }
                Ok(response)
            })
        };
        let mut version = (base.clone(), true);
        let mut instance = get(&version.0, "instance/", version.1)?;
        if instance.status == 404 {
            version = (base.replace("/opc/v2", "/opc/v1"), false);
            instance = get(&version.0, "instance/", version.1)?;
        }
        let read = |path: &str| -> Result<Secret, CloudError> {
            let response = get(&version.0, path, version.1)?;
            if response.is_success() {
                return Ok(response.body);
            }
            let reason = format!("status {} for {path}", response.status);
            Err(CloudError::new(PROVIDER, STEP, &*version.0, reason))
        };
        let document = instance.json().unwrap_or_default();
        let info = &document["regionInfo"];
        let region = info["regionIdentifier"].as_str().or_else(|| document["region"].as_str());
        let realm = info["realmDomainComponent"].as_str().unwrap_or("oraclecloud.com");
        let is_name = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        };
        let region = region.filter(|_| is_name(realm)).ok_or_else(|| {
            CloudError::new(PROVIDER, STEP, &*version.0, "it does not tell the region")
        })?;
        let region = Region::of(PROVIDER, &version.0, region)?;
        let name = "OCI_SDK_AUTH_CLIENT_REGION_URL";
        let auth_url = overrides::endpoint(performer, PROVIDER, name, &super::REALMS)?
            .unwrap_or_else(|| format!("https://auth.{region}.{realm}"));
        Ok(Self {
            certificate: read("identity/cert.pem")?.expose().to_owned(),
            key: read("identity/key.pem")?,
            intermediate: read("identity/intermediate.pem")?.expose().to_owned(),
            auth_url,
        })
    }
}

/// What is needed of the instance's certificate.
struct Leaf {
    tenancy: String,
    /// SHA-1 of the certificate: upper-case pairs with colons.
    fingerprint: String,
}

impl Leaf {
    fn parse(pem: &str) -> Option<Self> {
        use sha1::Digest as _;
        let der = STANDARD.decode(bare(pem)).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let tenancy = certificate
            .subject()
            .iter_organizational_unit()
            .filter_map(|unit| unit.as_str().ok())
            .find_map(|unit| {
                unit.strip_prefix("opc-tenant:").or_else(|| unit.strip_prefix("opc-identity:"))
            })?
            .to_owned();
        let pairs: Vec<String> =
            sha1::Sha1::digest(&der).iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Self { tenancy, fingerprint: pairs.join(":") })
    }
}

/// A PEM body without armour and line feeds.
fn bare(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect()
}
