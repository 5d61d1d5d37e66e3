//! Whether two host names have one owner, as far as names tell.
//!
//! Wrong in one direction a credential goes to a stranger who rents a name beside the registry's;
//! wrong in the other it is withheld, which the user can mend by naming the token service. So
//! where a domain has many tenants a name shares with nobody.

use credentials::cloud::{CloudOptions, RegistryHost};
use url::{Host, Url};

/// Domains of clouds and hosters whose tenants have names of several depths: no two names below
/// one of them are taken for one owner's.
const NOTHING_SHARED: [&str; 45] = [
    // Amazon, all partitions.
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "amazonwebservices.com.cn",
    "awsapprunner.com",
    "adc-e.uk",
    "aws",
    "aws.com",
    "cloudfront.net",
    "elasticbeanstalk.com",
    "ic.gov",
    "sgov.gov",
    // Google.
    "appspot.com",
    "cloudfunctions.net",
    "gcr.io",
    "googleapis.com",
    "googleusercontent.com",
    "pkg.dev",
    "run.app",
    // Microsoft.
    "azure-api.net",
    "azure.com",
    "azurecontainerapps.io",
    "azurecr.cn",
    "azurecr.de",
    "azurecr.io",
    "azurecr.us",
    "azureedge.net",
    "azurefd.net",
    "azurewebsites.net",
    "chinacloudapi.cn",
    "chinacloudsites.cn",
    "cloudapp.net",
    "trafficmanager.net",
    "windows.net",
    // Oracle, IBM, Alibaba, Scaleway.
    "aliyuncs.com",
    "appdomain.cloud",
    "icr.io",
    "ocir.io",
    "oraclecloud.com",
    "oraclecloud.eu",
    "oraclegovcloud.com",
    "oraclegovcloud.uk",
    "scw.cloud",
    // Names that stand for addresses.
    "nip.io",
    "sslip.io",
];

/// Domains below which everybody can have a name; what is below that name has its owner.
const RENTED_BELOW: [&str; 37] = [
    "amplifyapp.com",
    "cloudsmith.io",
    "deno.dev",
    "digitaloceanspaces.com",
    "duckdns.org",
    "dyndns.org",
    "firebaseapp.com",
    "fly.dev",
    "github.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "jfrog.io",
    "lhr.life",
    "loca.lt",
    "myqcloud.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok-free.dev",
    "ngrok.app",
    "ngrok.dev",
    "ngrok.io",
    "no-ip.org",
    "ondigitalocean.app",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "railway.app",
    "repl.co",
    "replit.app",
    "tencentcloudcr.com",
    "trycloudflare.com",
    "ts.net",
    "vercel.app",
    "web.app",
    "workers.dev",
    "zapto.org",
];

/// First labels of Alibaba's token services, which are beside the registries of a region.
const ALIBABA: [&str; 4] = ["dockerauth", "dockerauth-ee", "dockerauth-ee-vpc", "dockerauth-vpc"];

/// Whether a realm and a registry belong to one owner as far as their names tell: the same name,
/// or names below one domain that somebody can register. A host of a cloud shares with nobody but
/// with what the cloud documents (cloud-credentials.md 12.3).
pub(crate) fn shares_domain(realm: &Url, registry: &Url) -> bool {
    match (realm.host(), registry.host()) {
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            let is_of_one_owner = || {
                registrable(one).is_some_and(|domain| registrable(other) == Some(domain))
                    && !is_of_cloud(one)
                    && !is_of_cloud(other)
            };
            one == other || is_of_one_owner() || is_clouds_pair(one, other)
        }
        (one, other) => one.is_some() && one == other,
    }
}

/// Whether a realm is the one that a cloud documents for a registry of its own on another host.
fn is_clouds_pair(realm: &str, registry: &str) -> bool {
    let [Some((service, region)), Some((_, place))] = [realm, registry].map(|name| {
        let (first, rest) = name.strip_suffix(".aliyuncs.com")?.split_once('.')?;
        Some((first, rest.strip_suffix(".cr").unwrap_or(rest)))
    }) else {
        return false;
    };
    ALIBABA.contains(&service) && region == place && !region.contains('.')
}

fn is_of_cloud(name: &str) -> bool {
    RegistryHost::of(name).is_some_and(|host| CloudOptions::all().provider_of(&host).is_some())
}

/// The last labels of a name that somebody owns: two, or three where the second level looks like
/// one of a country's own (`co.uk`). Nothing for names without a dot, and for names of which only
/// the whole is somebody's.
fn registrable(name: &str) -> Option<&str> {
    let name = name.trim_end_matches('.');
    let is_below = |domain: &&str| {
        name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if NOTHING_SHARED.iter().any(is_below) {
        return None;
    }
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let top = dots.next()?;
    let second = dots.next();
    let label = &name[second.map_or(0, |at| at + 1)..top];
    let is_national = name.len() - top - 1 == 2 && label.len() <= 3;
    let is_shared = RENTED_BELOW.contains(&&name[second.map_or(0, |at| at + 1)..]);
    let start = match (is_national || is_shared, second) {
        (false, second) => second.map_or(0, |at| at + 1),
        // `co.uk` itself belongs to nobody, and `github.io` to everybody.
        (true, None) => return None,
        (true, Some(_)) => dots.next().map_or(0, |at| at + 1),
    };
    Some(&name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(name: &str) -> Url {
        Url::parse(&format!("https://{name}/")).expect("a URL")
    }

    #[test]
    fn domains_end_where_somebody_can_register_them() {
        for (name, expected) in [
            ("auth.docker.io", Some("docker.io")),
            ("docker.io", Some("docker.io")),
            ("a.b.example.com", Some("example.com")),
            ("a.shop.co.uk", Some("shop.co.uk")),
            ("shop.co.uk", Some("shop.co.uk")),
            ("co.uk", None),
            ("github.io", None),
            ("a.team.github.io", Some("team.github.io")),
            ("team.azurecr.io", None),
            ("localhost", None),
        ] {
            assert_eq!(registrable(name), expected, "{name}");
        }
    }

    /// cloud-credentials.md 12.3.
    #[test]
    fn neighbours_in_a_cloud_share_nothing() {
        const ECR: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
        for (registry, stranger) in [
            (ECR, "x.execute-api.us-east-1.amazonaws.com"),
            (ECR, "bucket.s3.us-east-1.amazonaws.com"),
            (ECR, "210987654321.dkr.ecr.us-east-1.amazonaws.com"),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "x.execute-api.cn-north-1.amazonaws.com.cn",
            ),
            ("123456789012.dkr-ecr.us-east-1.on.aws", "x.lambda-url.us-east-1.on.aws"),
            ("public.ecr.aws", "x.lambda-url.us-east-1.on.aws"),
            ("team.azurecr.io", "other.azurecr.io"),
            ("team.eastus.geo.azurecr.io", "other.eastus.geo.azurecr.io"),
            ("team.azurecr.de", "other.azurecr.de"),
            ("team.azurecr.io", "x.blob.core.windows.net"),
            ("a.blob.core.windows.net", "b.blob.core.windows.net"),
            ("us-docker.pkg.dev", "eu-docker.pkg.dev"),
            ("docker.us-east1.rep.pkg.dev", "x.us-east1.rep.pkg.dev"),
            ("us.gcr.io", "custom.gcr.io"),
            ("cp.icr.io", "us.icr.io"),
            ("fra.ocir.io", "iad.ocir.io"),
            ("ocir.eu-frankfurt-1.oci.oraclecloud.com", "x.eu-frankfurt-1.oci.oraclecloud.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "bucket.oss-cn-hangzhou.aliyuncs.com"),
            ("a.pages.dev", "b.pages.dev"),
            ("a.workers.dev", "b.workers.dev"),
            ("a.jfrog.io", "b.jfrog.io"),
            ("a.1.2.3.4.nip.io", "b.9.9.9.4.nip.io"),
            ("a.onrender.com", "b.onrender.com"),
        ] {
            let [one, other] = [registry, stranger].map(url);
            assert!(!shares_domain(&one, &other), "{registry} {stranger}");
            assert!(!shares_domain(&other, &one), "{stranger} {registry}");
            assert!(shares_domain(&one, &one), "{registry}");
        }
    }

    #[test]
    fn documented_pairs_of_a_cloud_are_known() {
        for (realm, registry, expected) in [
            ("dockerauth.cn-hangzhou.aliyuncs.com", "registry.cn-hangzhou.aliyuncs.com", true),
            (
                "dockerauth-ee.cn-beijing.aliyuncs.com",
                "t-registry.cn-beijing.cr.aliyuncs.com",
                true,
            ),
            ("dockerauth.cn-beijing.aliyuncs.com", "registry.cn-hangzhou.aliyuncs.com", false),
            ("dockerauth.oss-cn-beijing.aliyuncs.com", "registry.cn-beijing.aliyuncs.com", false),
            ("dockerauth.a.oss.aliyuncs.com", "registry.cn-beijing.aliyuncs.com", false),
            ("dockerauth.cn-beijing.aliyuncs.com", "registry.example.com", false),
        ] {
            let [one, other] = [realm, registry].map(url);
            assert_eq!(shares_domain(&one, &other), expected, "{realm} {registry}");
        }
    }
}
