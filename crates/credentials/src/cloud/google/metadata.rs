//! The metadata server of GCE and GKE.

use std::path::Path;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::{CloudError, Method, Performer, Request};
use super::oauth::read_token;
use super::{AccessToken, PROVIDER};
use crate::Secret;

const STEP: &str = "metadata server";

/// What the firmware calls itself on Google's machines.
const PRODUCT_NAME: &str = "/sys/class/dmi/id/product_name";

/// Whether this machine is Google's: asking the network elsewhere would only wait.
pub(super) fn is_here(performer: &dyn Performer) -> bool {
    if performer.variable("GCE_METADATA_HOST").is_some()
        || performer.variable("GCE_METADATA_IP").is_some()
        || performer.variable("NO_GCE_CHECK").is_some_and(|value| value == "true")
    {
        return true;
    }
    performer
        .read_file(Path::new(PRODUCT_NAME), 4096)
        .is_ok_and(|name| name.expose().starts_with("Google"))
}

fn base(performer: &dyn Performer) -> String {
    let host = performer
        .variable("GCE_METADATA_HOST")
        .or_else(|| performer.variable("GCE_METADATA_IP"))
        .unwrap_or_else(|| "169.254.169.254".to_owned());
    format!("http://{host}/computeMetadata/v1")
}

/// The token of the machine's default service account.
pub(super) fn access_token(
    performer: &dyn Performer,
    scope: &str,
) -> Result<AccessToken, CloudError> {
    let base = base(performer);
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, base.clone(), reason);
    let url = format!("{base}/instance/service-accounts/default/token?scopes={scope}");
    let request =
        Request::to_metadata(Method::Get, url).header("metadata-flavor", Secret::new("Google"));
    attempts(performer, Pace::METADATA, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::no_metadata(PROVIDER, STEP, base.clone(), &error))?;
        if is_passing(response.status) {
            return Err(failed(&format!("status {}", response.status)).retryable(true));
        }
        // Whatever else answers on that address is not the metadata server.
        if response.header("metadata-flavor") != Some("Google") {
            return Err(failed("the answer is not from a metadata server of Google"));
        }
        if response.status == 404 {
            return Err(failed("the instance has no service account")
                .hint("attach a service account with roles/artifactregistry.reader"));
        }
        read_token(&response, STEP, &base)
    })
}
