//! Quotas on the way in: room is asked for before bytes come, and given back when they do not.

use blob_store::UploadId;
use http::{Method, StatusCode};
use oci_model::{Digest, ErrorCode, Repository};

use super::quantity::ByteSize;
use crate::body::RequestBody;
use crate::metadata::{Change, ChangeError, Metadata, OverQuota, Reservation, Stamp};
use crate::options::COLLECTION_DELAY;
use crate::refusal::Refusal;
use crate::route::Target;
use crate::service::{Answer, Call};

/// How long room stays reserved for an upload that is silent, in milliseconds. One that goes on
/// later asks for its room again.
const UPLOAD_LASTS: u64 = 3_600_000;

/// Bytes for which an upload of unknown size asks at once: the most that there is room for.
const STEPS_BYTES: [u64; 3] = [64 * 1024 * 1024, 4 * 1024 * 1024, 256 * 1024];

/// Share of a quota, in percent, from which clients are warned.
const WARNING_PERCENT: u64 = 90;

/// What a client reads. 403 and not 507: the disk has room, and clients try again after a 5xx.
pub(crate) fn over_quota(over: &OverQuota) -> Refusal {
    let OverQuota { namespace, quota, used, reserved, asked } = over;
    let text = format!(
        "quota of namespace {namespace} exceeded: {} allowed, {} used, {} reserved for uploads, {} \
         more asked for",
        ByteSize(*quota),
        ByteSize(*used),
        ByteSize(*reserved),
        ByteSize(*asked)
    );
    Refusal::new(ErrorCode::Denied, text).with_detail(serde_json::json!({
        "namespace": namespace, "quota": quota, "used": used, "reserved": reserved, "asked": asked,
    }))
}

/// Refuses a push to a new repository where there may be no more of them. The last word has the
/// change that makes the repository.
fn admit(call: &Call<'_>) -> Result<(), Refusal> {
    let metadata = &call.service.metadata;
    let Some(policies) = metadata.policies()? else { return Ok(()) };
    let namespace = policies.of(call.repository.as_str());
    let Some(most) = namespace.repositories_max else { return Ok(()) };
    if metadata.usage(&namespace.prefix)?.repositories < most || metadata.knows(&call.repository)? {
        return Ok(());
    }
    let namespace = namespace.title().to_owned();
    Err(ChangeError::Repositories { namespace, most }.into())
}

/// Adds a warning to the answer when the namespace is nearly full.
fn warn_near_quota(call: &Call<'_>) -> Result<(), Refusal> {
    let metadata = &call.service.metadata;
    let Some(policies) = metadata.policies()? else { return Ok(()) };
    let namespace = policies.of(call.repository.as_str());
    let Some(quota) = namespace.quota else { return Ok(()) };
    let usage = metadata.usage(&namespace.prefix)?;
    let held = u128::from(usage.bytes) + u128::from(usage.reserved);
    if held * 100 < u128::from(quota.0) * u128::from(WARNING_PERCENT) {
        return Ok(());
    }
    call.warnings.add(&format!(
        "namespace {} uses {} of {}",
        namespace.title(),
        ByteSize(u64::try_from(held).unwrap_or(u64::MAX)),
        quota
    ));
    Ok(())
}

/// The room of one request that uploads to a namespace with a quota. It goes with the body, which
/// asks for more as more comes.
///
/// The upload holds it, never the digest that the request claims: a digest gets its room when the
/// blob is there, so a refused upload cannot give back what another one of that digest holds.
pub(crate) struct Meter {
    metadata: Metadata,
    repository: Repository,
    by: String,
    /// Upload that holds the room.
    upload: String,
    /// Bytes that came with this request.
    came: u64,
    /// Bytes for which this request has reserved room.
    granted: u64,
}

impl Meter {
    /// Counts bytes that came; asks for more room when there is none left.
    ///
    /// # Errors
    /// 403 if there is no more.
    pub(crate) async fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.came += bytes;
        if self.came <= self.granted {
            return Ok(());
        }
        // Much at once, less near the quota.
        let needed = self.came - self.granted;
        for more in STEPS_BYTES {
            if self.grow(needed.max(more)).await.is_ok() {
                return Ok(());
            }
        }
        self.grow(needed).await
    }

    async fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.submit(Change::Reserve(Reservation {
            repository: self.repository.clone(),
            holder: self.upload.clone(),
            bytes,
            adds: true,
            lasts: UPLOAD_LASTS,
            instead_of: None,
        }))
        .await?;
        self.granted += bytes;
        Ok(())
    }

    /// Gives back what did not come.
    async fn give_back(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes == 0 {
            return Ok(());
        }
        let (repository, upload) = (self.repository.clone(), self.upload.clone());
        self.submit(Change::Unreserve(repository, upload, bytes)).await
    }

    async fn submit(&self, change: Change) -> Result<(), Refusal> {
        self.metadata.submit(change, Stamp::now(self.by.clone(), String::new())).await?;
        Ok(())
    }
}

/// Asks for the room that a request needs, as far as that is known before its bytes come.
///
/// # Errors
/// 403 if there is not so much room, or no room for another repository.
pub(crate) async fn enter(
    call: &Call<'_>,
    target: &Target,
    body: &mut RequestBody,
) -> Result<(), Refusal> {
    let upload = match (&call.method, target) {
        (&Method::POST, Target::Uploads) => {
            admit(call)?;
            // A blob in one request; its upload has no name that anybody else knows.
            match claimed(call) {
                Some(_) if call.query.get("mount").is_none() => {
                    uuid::Uuid::new_v4().simple().to_string()
                }
                Some(_) | None => return Ok(()),
            }
        }
        (&Method::PATCH | &Method::PUT, Target::Upload(id)) => match id.parse::<UploadId>() {
            Ok(id) => id.to_string(),
            // The handler says what is wrong with it.
            Err(_) => return Ok(()),
        },
        _ => return Ok(()),
    };
    if !has_quota(call)? {
        return Ok(());
    }
    let mut meter = Meter {
        metadata: call.service.metadata.clone(),
        repository: call.repository.clone(),
        by: call.principal.name().to_owned(),
        upload,
        came: 0,
        granted: 0,
    };
    let expected = body.size_min();
    if expected > 0 {
        meter.grow(expected).await?;
    }
    body.set_meter(Some(Box::new(meter)));
    Ok(())
}

/// The digest that a request says its blob has.
fn claimed(call: &Call<'_>) -> Option<Digest> {
    call.query.get("digest").and_then(|digest| digest.parse().ok())
}

/// After a request: what it reserved becomes exactly what it brought, or is given back.
///
/// # Errors
/// 403 if a mounted blob does not fit.
pub(crate) async fn leave(
    call: &Call<'_>,
    target: &Target,
    body: &mut RequestBody,
    mut answer: Answer,
) -> Answer {
    if let Some(meter) = body.set_meter(None)
        && let Err(refusal) = settle(call, &meter, answer.is_ok()).await
    {
        answer = answer.and(Err(refusal));
    }
    let is_success = answer.as_ref().is_ok_and(|response| response.status().is_success());
    if !is_success || !matches!(call.method, Method::POST | Method::PUT) {
        return answer;
    }
    let mounted = call.query.get("mount").and_then(|digest| digest.parse::<Digest>().ok());
    if let (Target::Uploads, Some(digest)) = (target, mounted)
        && answer.as_ref().is_ok_and(|response| response.status() == StatusCode::CREATED)
        && has_quota(call)?
    {
        hold(call, &digest, None).await?;
    }
    warn_near_quota(call)?;
    answer
}

async fn settle(call: &Call<'_>, meter: &Meter, is_taken: bool) -> Result<(), Refusal> {
    // Nothing stays of a POST that was refused; another upload keeps what came until it ends.
    let kept = if is_taken || call.method != Method::POST { meter.came } else { 0 };
    match claimed(call) {
        Some(digest) if is_taken && call.method != Method::PATCH => {
            hold(call, &digest, Some(&meter.upload)).await
        }
        _ => meter.give_back(meter.granted.saturating_sub(kept)).await,
    }
}

/// Reserves the room of a blob that no manifest needs yet, for as long as the blob itself lasts;
/// an upload that became the blob needs its own no more.
async fn hold(call: &Call<'_>, digest: &Digest, upload: Option<&str>) -> Result<(), Refusal> {
    let metadata = &call.service.metadata;
    let Some(bytes) = metadata.linked(&call.repository, digest)? else { return Ok(()) };
    let lasts = call.service.collection_delay.unwrap_or(COLLECTION_DELAY).as_millis();
    let change = Change::Reserve(Reservation {
        repository: call.repository.clone(),
        holder: digest.to_string(),
        bytes,
        adds: false,
        lasts: u64::try_from(lasts).unwrap_or(u64::MAX),
        instead_of: upload.map(str::to_owned),
    });
    metadata.submit(change, call.stamp()).await?;
    Ok(())
}

fn has_quota(call: &Call<'_>) -> Result<bool, Refusal> {
    let policies = call.service.metadata.policies()?;
    Ok(policies.is_some_and(|policies| policies.of(call.repository.as_str()).quota.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_much_there_is_in_words_for_people() {
        let over = OverQuota {
            namespace: "team".to_owned(),
            quota: 1 << 30,
            used: 900 << 20,
            reserved: 0,
            asked: 200 << 20,
        };
        let refusal = over_quota(&over);
        assert_eq!((refusal.status().as_u16(), refusal.code()), (403, "DENIED"));
        let body = format!("{refusal:?}");
        assert!(
            body.contains(
                "quota of namespace team exceeded: 1.0 GiB allowed, 900.0 MiB used, 0 B reserved \
                 for uploads, 200.0 MiB more asked for"
            ),
            "{body}"
        );
    }
}
