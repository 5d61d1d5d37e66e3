//! Why an entry that looks right is not used for one image, or is used for it by surprise.

use super::code::Code;
use super::{Findings, key};
use crate::keyring::{Target, normalise_key, split_authority, split_host_port};

/// Compares one key with `image` (`registry/repository`).
pub(super) fn check(written: &str, image: &str, findings: &mut Findings) {
    let Some(normalised) = normalise_key(written) else { return };
    let (Some(pattern), Some(target)) = (Target::parse(&normalised), Target::parse(image)) else {
        return;
    };
    let (authority, path) = split_authority(&normalised);
    let (image_authority, image_path) = split_authority(image);
    let (host, port) = split_host_port(authority);
    let (image_host, image_port) = split_host_port(image_authority);
    let shown = key::shown(written);
    if pattern.matches(&target) {
        let rest = image_path.strip_prefix(path).unwrap_or_default();
        if !path.is_empty() && !path.ends_with('/') && !rest.is_empty() && !rest.starts_with('/') {
            findings.entry(
                Code::MatchedByRawPrefix,
                written,
                format!("{shown:?} is tried for {image} because the texts begin alike"),
                format!("{authority}{path}/ keeps it to what is below it"),
            );
        }
        return;
    }
    let same_host = pattern.host_matches(&target);
    if same_host && port != image_port {
        let said = |port: &str| match port {
            "" => "no port".to_owned(),
            port => format!("port {port}"),
        };
        findings.entry(
            Code::PortDiffers,
            written,
            format!("{shown:?} has {}, and {image} has {}", said(port), said(image_port)),
            format!("use {image_authority:?} as the key"),
        );
    } else if same_host {
        findings.entry(
            Code::PathDiffers,
            written,
            format!("{shown:?} does not cover the repository {:?}", image_path.trim_matches('/')),
            format!("use {image_authority:?} as the key, or a path that the image begins with"),
        );
    } else if let Some((_, suffix)) = host.split_once('*')
        && !suffix.is_empty()
        && image_host.ends_with(suffix.trim_start_matches('.'))
        && host.split('.').count() != image_host.split('.').count()
    {
        findings.entry(
            Code::WildcardLabels,
            written,
            format!(
                "* stands for exactly one label, so that {shown:?} does not match {image_host}"
            ),
            format!("use {image_host:?} as the key, or as many labels as it has"),
        );
    }
}
