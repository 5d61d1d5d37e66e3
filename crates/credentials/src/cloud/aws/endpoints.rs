//! Registry hosts of ECR and the APIs behind them.

use super::super::RegistryHost;
use super::super::label::Region;

/// An isolated part of AWS with names of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name, such as `aws-cn`.
    pub name: &'static str,
    /// Ends of its registries' hosts, IPv4 first.
    registry_suffixes: &'static [&'static str],
    /// End of its APIs' hosts.
    api_suffix: &'static str,
    /// The same where IPv6 is spoken too.
    dual_stack_suffix: &'static str,
    /// How its regions begin, and how many parts their names have.
    regions: (&'static [&'static str], usize),
}

const PARTITIONS: &[Partition] = &[
    Partition {
        name: "aws-cn",
        registry_suffixes: &["amazonaws.com.cn", "on.amazonwebservices.com.cn"],
        api_suffix: "amazonaws.com.cn",
        dual_stack_suffix: "api.amazonwebservices.com.cn",
        regions: (&["cn"], 3),
    },
    Partition {
        name: "aws-us-gov",
        registry_suffixes: &["amazonaws.com", "on.aws"],
        api_suffix: "amazonaws.com",
        dual_stack_suffix: "api.aws",
        regions: (&["us-gov"], 4),
    },
    Partition {
        name: "aws-iso",
        registry_suffixes: &["c2s.ic.gov"],
        api_suffix: "c2s.ic.gov",
        dual_stack_suffix: "api.aws.ic.gov",
        regions: (&["us-iso"], 4),
    },
    Partition {
        name: "aws-iso-b",
        registry_suffixes: &["sc2s.sgov.gov"],
        api_suffix: "sc2s.sgov.gov",
        dual_stack_suffix: "api.aws.scloud",
        regions: (&["us-isob"], 4),
    },
    Partition {
        name: "aws-iso-e",
        registry_suffixes: &["cloud.adc-e.uk"],
        api_suffix: "cloud.adc-e.uk",
        dual_stack_suffix: "api.cloud-aws.adc-e.uk",
        regions: (&["eu-isoe"], 4),
    },
    Partition {
        name: "aws-iso-f",
        registry_suffixes: &["csp.hci.ic.gov"],
        api_suffix: "csp.hci.ic.gov",
        dual_stack_suffix: "api.aws.hci.ic.gov",
        regions: (&["us-isof"], 4),
    },
    Partition {
        name: "aws-eusc",
        registry_suffixes: &["amazonaws.eu"],
        api_suffix: "amazonaws.eu",
        dual_stack_suffix: "api.amazonwebservices.eu",
        regions: (&["eusc"], 4),
    },
    // Last: regions that nobody else claims.
    Partition {
        name: "aws",
        registry_suffixes: &["amazonaws.com", "on.aws"],
        api_suffix: "amazonaws.com",
        dual_stack_suffix: "api.aws",
        regions: (&["us", "eu", "ap", "sa", "ca", "me", "af", "mx", "il"], 3),
    },
];

/// What of ECR a registry's host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EcrHost {
    /// A private registry.
    Private {
        /// The twelve digits of the account.
        account: String,
        /// The region, which is where its API is asked, whatever the environment says.
        region: String,
        /// Where the region is.
        partition: &'static Partition,
        /// Whether the cryptography has to be certified (FIPS 140).
        fips: bool,
        /// Whether the host has IPv6 addresses too.
        dual_stack: bool,
    },
    /// The public gallery.
    Public {
        /// Whether the host has IPv6 addresses too.
        dual_stack: bool,
    },
}

/// An API and what its requests are signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) region: String,
    pub(super) service: &'static str,
}

impl EcrHost {
    /// What the host is; `None` if it is not of ECR, whole and to the letter.
    pub fn of(host: &RegistryHost) -> Option<Self> {
        match host.as_str() {
            "public.ecr.aws" => return Some(Self::Public { dual_stack: false }),
            "ecr-public.aws.com" => return Some(Self::Public { dual_stack: true }),
            _ => {}
        }
        let (account, rest) = host.as_str().split_at_checked(12)?;
        if !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (rest, joint_is_dual) = match rest.strip_prefix(".dkr.") {
            Some(rest) => (rest, false),
            None => (rest.strip_prefix(".dkr-")?, true),
        };
        let (rest, fips) = match rest.strip_prefix("ecr-fips.") {
            Some(rest) => (rest, true),
            None => (rest.strip_prefix("ecr.")?, false),
        };
        let (region, suffix) = rest.split_once('.')?;
        let known = |partition: &&Partition| partition.registry_suffixes.contains(&suffix);
        // A region newer than this table belongs to the partition of its suffix.
        let partition = PARTITIONS
            .iter()
            .filter(known)
            .find(|partition| partition.has(region))
            .or_else(|| PARTITIONS.iter().rev().find(known))?;
        let is_region = region.starts_with(|c: char| c.is_ascii_alphanumeric());
        is_region.then(|| Self::Private {
            account: account.to_owned(),
            region: region.to_owned(),
            partition,
            fips,
            dual_stack: joint_is_dual || suffix.starts_with("on."),
        })
    }

    /// The API that gives out tokens for it.
    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Public { dual_stack } => {
                let region = "us-east-1";
                let url = if *dual_stack {
                    format!("https://ecr-public.{region}.api.aws")
                } else {
                    format!("https://api.ecr-public.{region}.amazonaws.com")
                };
                Endpoint { url, region: region.to_owned(), service: "ecr-public" }
            }
            Self::Private { region, partition, fips, dual_stack, .. } => {
                let bare = matches!(partition.name, "aws" | "aws-us-gov");
                let host = match (fips, dual_stack) {
                    (false, false) => format!("api.ecr.{region}.{}", partition.api_suffix),
                    (true, false) if bare => format!("ecr-fips.{region}.{}", partition.api_suffix),
                    (true, false) => format!("api.ecr-fips.{region}.{}", partition.api_suffix),
                    (false, true) => format!("ecr.{region}.{}", partition.dual_stack_suffix),
                    (true, true) => format!("ecr-fips.{region}.{}", partition.dual_stack_suffix),
                };
                let (url, region) = (format!("https://{host}"), region.clone());
                Endpoint { url, region, service: "ecr" }
            }
        }
    }
}

impl Partition {
    /// The partition of a region.
    pub(super) fn of_region(region: &str) -> &'static Self {
        PARTITIONS
            .iter()
            .find(|partition| partition.has(region))
            .unwrap_or(&PARTITIONS[PARTITIONS.len() - 1])
    }

    fn has(&self, region: &str) -> bool {
        let (beginnings, parts) = self.regions;
        region.split('-').count() == parts
            && beginnings.iter().any(|beginning| {
                region.strip_prefix(beginning).is_some_and(|rest| rest.starts_with('-'))
            })
    }

    /// The security token service of a region.
    pub(super) fn sts(&self, region: &Region) -> Endpoint {
        let url = format!("https://sts.{region}.{}", self.api_suffix);
        Endpoint { url, region: region.to_string(), service: "sts" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(host: &str) -> Option<EcrHost> {
        EcrHost::of(&RegistryHost::of(host)?)
    }

    #[track_caller]
    fn check(host: &str, partition: &str, url: &str) {
        let found = of(host).expect(host);
        let EcrHost::Private { partition: known, .. } = &found else { panic!("{host}") };
        assert_eq!((known.name, found.endpoint().url.as_str()), (partition, url), "{host}");
    }

    #[test]
    fn each_partition_has_its_api() {
        // Case 11.
        let a = "123456789012";
        let api = "https://api.ecr";
        check(
            &format!("{a}.dkr.ecr.eu-west-1.amazonaws.com"),
            "aws",
            &format!("{api}.eu-west-1.amazonaws.com"),
        );
        check(
            &format!("{a}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
            "aws-cn",
            &format!("{api}.cn-north-1.amazonaws.com.cn"),
        );
        check(
            &format!("{a}.dkr.ecr.us-gov-west-1.amazonaws.com"),
            "aws-us-gov",
            &format!("{api}.us-gov-west-1.amazonaws.com"),
        );
        check(
            &format!("{a}.dkr.ecr-fips.us-gov-west-1.amazonaws.com"),
            "aws-us-gov",
            "https://ecr-fips.us-gov-west-1.amazonaws.com",
        );
        check(
            &format!("{a}.dkr.ecr-fips.us-east-1.amazonaws.com"),
            "aws",
            "https://ecr-fips.us-east-1.amazonaws.com",
        );
        check(&format!("{a}.dkr-ecr.us-east-1.on.aws"), "aws", "https://ecr.us-east-1.api.aws");
        check(
            &format!("{a}.dkr-ecr-fips.us-east-1.on.aws"),
            "aws",
            "https://ecr-fips.us-east-1.api.aws",
        );
        check(
            &format!("{a}.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn"),
            "aws-cn",
            "https://ecr.cn-north-1.api.amazonwebservices.com.cn",
        );
        check(
            &format!("{a}.dkr.ecr-fips.cn-north-1.amazonaws.com.cn"),
            "aws-cn",
            "https://api.ecr-fips.cn-north-1.amazonaws.com.cn",
        );
        check(
            &format!("{a}.dkr.ecr-fips.us-iso-east-1.c2s.ic.gov"),
            "aws-iso",
            "https://api.ecr-fips.us-iso-east-1.c2s.ic.gov",
        );
        check(
            &format!("{a}.dkr-ecr.us-gov-west-1.on.aws"),
            "aws-us-gov",
            "https://ecr.us-gov-west-1.api.aws",
        );
        check(
            &format!("{a}.dkr-ecr-fips.cn-north-1.on.amazonwebservices.com.cn"),
            "aws-cn",
            "https://ecr-fips.cn-north-1.api.amazonwebservices.com.cn",
        );
        for (region, partition, suffix) in [
            ("us-iso-east-1", "aws-iso", "c2s.ic.gov"),
            ("us-isob-east-1", "aws-iso-b", "sc2s.sgov.gov"),
            ("eu-isoe-west-1", "aws-iso-e", "cloud.adc-e.uk"),
            ("us-isof-south-1", "aws-iso-f", "csp.hci.ic.gov"),
            ("eusc-de-east-1", "aws-eusc", "amazonaws.eu"),
        ] {
            check(
                &format!("{a}.dkr.ecr.{region}.{suffix}"),
                partition,
                &format!("{api}.{region}.{suffix}"),
            );
        }
    }

    #[test]
    fn the_gallery_is_asked_in_one_region() {
        let endpoint = of("public.ecr.aws").expect("it").endpoint();
        assert_eq!(endpoint.url, "https://api.ecr-public.us-east-1.amazonaws.com");
        assert_eq!((endpoint.region.as_str(), endpoint.service), ("us-east-1", "ecr-public"));
    }

    #[test]
    fn a_look_alike_is_not_ecr() {
        // Section 12.2.
        for host in [
            "123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.com",
            "12345678901.dkr.ecr.us-east-1.amazonaws.com",
            "1234567890123.dkr.ecr.us-east-1.amazonaws.com",
            "a23456789012.dkr.ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.evilamazonaws.com",
            "123456789012.dkr.ecr.x.y.amazonaws.com",
            "x.123456789012.dkr.ecr.us-east-1.amazonaws.com",
            "123456789012.dkr_ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com:5000/a",
            "public.ecr.aws.evil.com",
            "evil.com/public.ecr.aws",
            "docker.io/library/x",
        ] {
            assert_eq!(of(host), None, "{host}");
        }
    }
}
