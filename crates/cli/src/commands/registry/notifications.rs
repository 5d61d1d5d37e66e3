//! Who is told what happens: the keys.

use std::path::PathBuf;

use clap::ValueEnum;
use registry_server::{EventFormat, Receiver};
use serde::Deserialize;

use super::config::shape::{Shape, Shaped, Time, settings};
use crate::exit::Failure;

settings! {
    /// A receiver of notifications: every change as one POST, at least once, in order.
    item ReceiverConfig {
        /// By which it is known; another name is another receiver, told of what happens from then.
        name: String,
        /// Where events are sent.
        url: String,
        /// How events are written.
        format: Option<FormatArg> = "cloudevents",
        /// File with the key of the signature (HMAC-SHA-256, header X-Shipway-Signature).
        secret_file: Option<PathBuf>,
        /// File with the value of the Authorization header.
        authorization_file: Option<PathBuf>,
        /// Authorities trusted besides those of the web (PEM).
        ca: Option<PathBuf>,
        /// Networks that the URL may lead to although they are not public, such as 10.0.0.0/8.
        allowed_networks: Option<Vec<String>> = "none",
        /// Only events of these repositories and those below them.
        repositories: Option<Vec<String>> = "all",
        /// How long one try may take.
        timeout: Option<Time> = "30s",
        /// Tries before an event is put aside.
        attempts: Option<u32> = "15",
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(super) enum FormatArg {
    /// CloudEvents 1.0, structured JSON.
    CloudEvents,
    /// The envelope of CNCF distribution.
    Distribution,
}

impl Shaped for FormatArg {
    fn shape() -> Shape {
        Shape::choice::<Self>()
    }
}

impl ReceiverConfig {
    /// What the keys say.
    pub(super) fn receiver(self) -> Result<Receiver, Failure> {
        let mut receiver = Receiver::new(self.name, self.url);
        receiver.format = match self.format {
            None | Some(FormatArg::CloudEvents) => EventFormat::CloudEvents,
            Some(FormatArg::Distribution) => EventFormat::Distribution,
        };
        for network in self.allowed_networks.unwrap_or_default() {
            receiver.allowed_networks.push(network.parse().map_err(Failure::usage)?);
        }
        receiver.secret_file = self.secret_file;
        receiver.authorization_file = self.authorization_file;
        receiver.authorities = self.ca;
        receiver.repositories = self.repositories.unwrap_or_default();
        receiver.timeout = self.timeout.map_or(receiver.timeout, |time| time.0);
        receiver.attempts_max = self.attempts.unwrap_or(receiver.attempts_max).max(1);
        Ok(receiver)
    }
}
