//! A pull with what a pod may show, and once more with what replaces a kept credential that the
//! registry refused.

use std::sync::Arc;
use std::time::Duration;

use image_policy::verification::UsedCredential;
use image_policy::{Event, event};
use oci_model::Reference;

use super::flights::{Failed, Landed};
use super::{Images, Request};
use crate::images::access::Offer;
use crate::images::progress::PullState;

impl Images {
    /// Pulls with these credentials, and tells which of them opened the image.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        request: &Request<'_>,
        reference: &Reference,
        offers: &[Offer],
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<(Landed, UsedCredential), Failed> {
        let failed = match self.fly_with(request, reference, offers, emit).await {
            Err(failed) if !failed.refused.is_empty() => failed,
            other => return other,
        };
        let mut fresh: Vec<Offer> = Vec::new();
        for refused in failed.refused.iter().filter_map(|at| offers.get(*at)) {
            let renewed =
                self.credentials.renewed(&reference.name(), Some(request.pod), refused, emit).await;
            for offer in renewed {
                // What was tried already needs no second try.
                if offers.iter().chain(&fresh).all(|known| known.auth != offer.auth) {
                    fresh.push(offer);
                }
            }
        }
        if fresh.is_empty() {
            return Err(failed);
        }
        tracing::info!(%reference, "pulling again: a credential that was kept is not good any more");
        self.fly_with(request, reference, &fresh, emit).await.map_err(|mut second| {
            // What the renewed ones were refused with says nothing any more.
            let first = failed.errors.into_iter().enumerate();
            let mut errors: Vec<String> = first
                .filter(|(at, _)| !failed.refused.contains(at))
                .map(|(_, error)| error)
                .collect();
            errors.append(&mut second.errors);
            Failed { errors, ..second }
        })
    }

    async fn fly_with(
        self: &Arc<Self>,
        request: &Request<'_>,
        reference: &Reference,
        offers: &[Offer],
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<(Landed, UsedCredential), Failed> {
        let flight =
            self.flight(reference, offers.iter().map(|offer| offer.auth.clone()).collect());
        let tell = |state: &PullState| emit(event::pull_progress(state.message(request.image)));
        let first = Some(self.limits.progress_after).filter(|after| !after.is_zero());
        let first = first.unwrap_or(Duration::MAX);
        let landed = flight.end(first, |pause| pause.saturating_mul(2), tell).await?;
        let opened = landed.used.and_then(|at| offers.get(at));
        let used = opened.map_or(UsedCredential::Node, |offer| offer.used.clone());
        Ok((landed, used))
    }
}
