//! `shipway credential-provider NAME`: credentials of the clouds for a kubelet (KEP-2133), by the
//! protocol on standard input and output. The upstream programs' names and flags work too, when
//! the binary is called by one of them.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use credentials::cloud::CloudProvider;
use credentials::cloud::plugin::{PluginAnswer, PluginRequest};

use crate::cloud::System;
use crate::cloud::flags::CloudFlags;
use crate::exit::{Failure, Kind};

/// Largest request of a kubelet, in bytes.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// Answer a kubelet that asks for the credential of an image.
///
/// Reads a CredentialProviderRequest on standard input and writes a CredentialProviderResponse. An
/// image of another registry gets an answer without credentials. The same binary may be installed
/// under the names ecr-credential-provider, auth-provider-gcp, gcr-credential-provider,
/// acr-credential-provider, credential-provider-oke, icr-credential-provider and
/// quay-credential-provider, each also with -ANYTHING at its end, so that a kubelet can have one
/// provider twice.
#[derive(Args, Debug)]
#[command(after_help = r#"Example, as a kubelet asks:
  echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest",
    "image":"123456789012.dkr.ecr.eu-west-1.amazonaws.com/app:1"}' | shipway credential-provider ecr

docs/cloud-credentials.md has each cloud's sources; docs/credential-providers.md a kubelet's file."#)]
pub(crate) struct CredentialProviderArgs {
    /// Whose registries: ecr, google, acr, oci, ibm or quay
    provider: CloudProvider,
    /// `get-credentials`, as upstream's programs are called, or for acr the path of azure.json
    #[arg(value_name = "ARGUMENT")]
    arguments: Vec<String>,
    #[command(flatten)]
    cloud: CloudFlags,
    /// How long everything may take; a kubelet gives up after a minute, and then nobody learns why
    #[arg(long, value_name = "SECONDS", default_value = "50", hide = true)]
    timeout: u16,
    /// Verbosity; accepted for upstream's sake
    #[arg(long = "v", short = 'v', value_name = "LEVEL", hide = true)]
    verbosity: Option<String>,
    /// Accepted for upstream's sake
    #[arg(
        long = "logtostderr",
        alias = "alsologtostderr",
        num_args = 0..=1,
        require_equals = true,
        hide = true
    )]
    log_to_stderr: Option<Option<bool>>,
    /// Accepted for upstream's sake; every flow but gcr is gone
    #[arg(long = "authFlow", value_name = "FLOW", hide = true)]
    auth_flow: Option<String>,
}

/// The provider behind a program name of upstream's, also of a second one such as
/// `ecr-credential-provider-prod`.
pub(crate) fn provider_of_program(name: &str) -> Option<&'static str> {
    const PROGRAMS: [(&str, &str); 7] = [
        ("ecr-credential-provider", "ecr"),
        ("auth-provider-gcp", "google"),
        ("gcr-credential-provider", "google"),
        ("acr-credential-provider", "acr"),
        ("credential-provider-oke", "oci"),
        ("icr-credential-provider", "ibm"),
        ("quay-credential-provider", "quay"),
    ];
    let is = |program: &str| {
        name.strip_prefix(program).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    PROGRAMS.iter().find(|(program, _)| is(program)).map(|(_, provider)| *provider)
}

/// Runs the verb. A kubelet writes standard error into its log, so that is one line.
pub(crate) async fn run(args: CredentialProviderArgs) -> Result<ExitCode, Failure> {
    match answer(args).await {
        Ok(answer) => {
            if let Some(error) = answer.warning {
                crate::output::error_line(&in_one_line(&crate::cloud::failure(error)));
            }
            crate::output::line(answer.document.expose());
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            crate::output::error_line(&in_one_line(&failure));
            Err(failure.told())
        }
    }
}

fn in_one_line(failure: &Failure) -> String {
    let hint = failure.next().map(|hint| format!("; try: {hint}")).unwrap_or_default();
    format!("error: {}{hint}", failure.text()).replace(['\r', '\n'], " ")
}

async fn answer(mut args: CredentialProviderArgs) -> Result<PluginAnswer, Failure> {
    check(&args)?;
    if let (CloudProvider::Acr, [file]) = (args.provider, &args.arguments[..]) {
        let file = file.clone();
        args.cloud.set_azure_config(&file);
    }
    let options = args.cloud.options(args.provider)?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
    let system = System::new()?.until(deadline).with_endpoints(args.cloud.allow_endpoint_overrides);
    let work = tokio::task::spawn_blocking(move || {
        let mut input = Vec::new();
        std::io::stdin().lock().take(REQUEST_BYTES_MAX).read_to_end(&mut input)?;
        let request =
            PluginRequest::parse(&input).map_err(|error| Failure::new(Kind::Failed, error))?;
        request.respond(&system, args.provider, &options).map_err(crate::cloud::failure)
    });
    work.await?
}

fn check(args: &CredentialProviderArgs) -> Result<(), Failure> {
    let is_acr = args.provider == CloudProvider::Acr;
    let mut arguments = args.arguments.iter();
    let unknown = match is_acr {
        true => arguments.nth(1),
        false => arguments.find(|argument| *argument != "get-credentials"),
    };
    if let Some(argument) = unknown {
        return Err(Failure::usage(format!("{argument:?} is not known here")));
    }
    match args.auth_flow.as_deref() {
        None | Some("gcr") => Ok(()),
        Some(flow) => Err(Failure::usage(format!("--authFlow {flow} is not supported"))
            .hint("gcr is; the dockercfg flows read project metadata that is no longer used")),
    }
}
