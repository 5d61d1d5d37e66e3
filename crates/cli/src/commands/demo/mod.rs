//! `shipway demo`: the whole image path on this machine, with the commands that a person would
//! type. Everything it makes is below one directory, which is gone when it ends.

mod manifests;
mod session;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use crate::exit::{Failure, Kind};
use crate::output;

use self::session::Session;

/// Flags of `shipway demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Leave everything running at the end, and print how to use and how to stop it
    #[arg(long)]
    keep: bool,
}

/// The user that the demo makes in its registry.
const USER: &str = "janedoe";

/// One finished part of the demo.
struct Part {
    title: &'static str,
    took: Duration,
}

/// Plays the demo; Ctrl-C ends it early and cleans up.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            Kind::Environment,
            anyhow::anyhow!("the demo starts a node, and a node needs root to mount and to set up containers"),
        )
        .hint("sudo shipway demo (or, from the sources, sudo -E env PATH=$PATH cargo run --release -- demo)"));
    }
    let started = Instant::now();
    let session = Session::prepare().await?;
    let mut parts = Vec::new();
    let outcome = tokio::select! {
        outcome = play(&session, &mut parts) => outcome,
        signal = wait_for_signal() => Err(signal),
    };
    if outcome.is_ok() && args.keep {
        summary(&parts, started.elapsed());
        session.keep();
        return Ok(ExitCode::SUCCESS);
    }
    let cleaned = session.clean_up().await;
    if let Err(failure) = outcome {
        match cleaned {
            Ok(()) => output::error_line("everything that the demo made was removed"),
            Err(left) => {
                left.report();
            }
        }
        return Err(failure);
    }
    cleaned?;
    summary(&parts, started.elapsed());
    Ok(ExitCode::SUCCESS)
}

/// Resolves when the user wants to stop.
async fn wait_for_signal() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted =
        |name: &str| Failure::new(Kind::Interrupted, anyhow::anyhow!("stopped by {name}"));
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => interrupted("Ctrl-C"),
            _ = terminate.recv() => interrupted("SIGTERM"),
        },
        (Err(error), _) | (_, Err(error)) => Failure::from(error),
    }
}

async fn play(session: &Session, parts: &mut Vec<Part>) -> Result<(), Failure> {
    let mut clock = Instant::now();
    let mut done = |title: &'static str| {
        parts.push(Part { title, took: clock.elapsed() });
        clock = Instant::now();
    };

    heading(1, "A machine with its own Kubernetes and a private registry");
    let registry = session.up().await?;
    session.kubectl(&["get", "nodes"]).await?;
    done("shipway up, first kubectl get nodes");

    heading(2, "A user of the registry, and a base image made on the spot");
    session.add_user(&registry, USER).await?;
    let base = format!("{registry}/base/busybox:1");
    build_base(session, &base).await?;
    done("base image built and pushed");

    heading(3, "Credentials for the cluster");
    session.create_secret().await?;
    done("pull secret created");

    heading(4, "A Job builds a two-stage Dockerfile; its pod has only the default rights");
    build_in_a_job(session, &registry, &base).await?;
    done("Job built and pushed the image");

    heading(5, "The image is private: a pod without the secret is refused");
    let image = format!("{registry}/team/hello:v1");
    session.apply("without-secret.yaml", &manifests::pod("without-secret", &image, false)).await?;
    let reason = session.first_image_error("without-secret").await?;
    output::line(&format!("   pod without-secret waits: {reason}"));
    session.kubectl(&["delete", "pod", "without-secret", "--now"]).await?;
    done("pull without credentials refused");

    heading(6, "With the secret the pod runs");
    session.apply("hello.yaml", &manifests::pod("hello", &image, true)).await?;
    session.wait_for_phase("hello", "Succeeded").await?;
    let log = session.kubectl(&["logs", "hello"]).await?;
    if log.trim() != "SUCCESS" {
        return Err(anyhow::anyhow!("the pod printed {log:?} and not SUCCESS").into());
    }
    done("pod pulled the image and ran");
    Ok(())
}

async fn build_base(session: &Session, base: &str) -> Result<(), Failure> {
    let busybox = session.busybox().await?;
    let context = session.path("base");
    std::fs::create_dir_all(&context).context("cannot make the context of the base image")?;
    std::fs::copy(&busybox, context.join("busybox"))
        .with_context(|| format!("cannot copy {}", busybox.display()))?;
    std::fs::write(context.join("Dockerfile"), manifests::BASE_DOCKERFILE)
        .context("cannot write the Dockerfile of the base image")?;
    session.shipway(&["build", "--progress=plain", "-t", base, "--push", "base"]).await?;
    Ok(())
}

async fn build_in_a_job(session: &Session, registry: &str, base: &str) -> Result<(), Failure> {
    let sources = session.path("sources");
    std::fs::create_dir_all(&sources).context("cannot make the sources")?;
    write(&sources, "Dockerfile", &manifests::dockerfile(base))?;
    write(&sources, "build.sh", manifests::BUILD_SCRIPT)?;
    output::line(&indent(&manifests::dockerfile(base), "   | "));
    session.kubectl(&["create", "configmap", "sources", "--from-file=sources"]).await?;
    session.apply("workspace.yaml", &manifests::workspace(base)).await?;
    session.wait_for_phase("fill-workspace", "Succeeded").await?;
    let destination = format!("{registry}/team/hello:v1");
    session.apply("job.yaml", &manifests::build_job(&destination)).await?;
    session.wait_for_job("build-image").await?;
    session.kubectl(&["logs", "job/build-image"]).await?;
    session.shipway(&["tags", &format!("{registry}/team/hello")]).await?;
    Ok(())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn heading(number: usize, text: &str) {
    output::line(&format!("\n{number}. {text}"));
}

fn indent(text: &str, prefix: &str) -> String {
    text.lines().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>().join("\n")
}

fn summary(parts: &[Part], total: Duration) {
    output::line("\nWhat happened:");
    for part in parts {
        output::line(&format!("  {:>7.2} s  {}", part.took.as_secs_f64(), part.title));
    }
    output::line(&format!("  {:>7.2} s  in total", total.as_secs_f64()));
    output::line(
        "\nNext:
  shipway demo --keep                    the same, and leave it running
  shipway up                             a machine that stays; prints what to export
  shipway build -t NAME --push .         your own Dockerfile, no Docker needed
  shipway executor --context … --destination …   with kaniko's flags
  shipway --help                         everything else",
    );
}
