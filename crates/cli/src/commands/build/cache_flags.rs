//! Flags of `shipway build` that concern the cache, spelled as docker buildx does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use image_builder::{
    BuildRequest, CacheError, CachePlace, CacheScope, CacheSink, CacheSource, CacheUse,
};

use crate::commands::build::reference;
use crate::exit::Failure;

/// Bytes of all cache mounts together that are exported if nothing else is said (4 GiB).
pub(crate) const MOUNTS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Tag of a cache in a layout if none is named, as in buildx.
const LAYOUT_TAG: &str = "latest";

/// Flags of the cache.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheFlags {
    /// Execute every step anew, with empty cache mounts
    #[arg(long)]
    no_cache: bool,
    /// Execute the steps of these stages anew, with empty cache mounts
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Cache to look into: REFERENCE, type=registry,ref=REFERENCE (a cache, or an image with one
    /// inside) or type=local,src=DIRECTORY[,tag=TAG]; may repeat
    #[arg(long, value_name = "SPEC")]
    cache_from: Vec<String>,
    /// Cache to write: type=registry,ref=REFERENCE, type=local,dest=DIRECTORY[,tag=TAG] or
    /// type=inline (inside the image). Further keys: mode=min|max (steps of the image, or of all
    /// stages), ttl=336h, ignore-error=true, mounts=true (directories of RUN
    /// --mount=type=cache too, restored where they do not exist), mounts-max-size=4GiB; may repeat
    #[arg(long, value_name = "SPEC")]
    cache_to: Vec<String>,
    /// Say of every step which cache knew it, or what differs from the nearest step on record
    #[arg(long)]
    cache_explain: bool,
}

impl CacheFlags {
    /// Puts the flags into a request; `inline` is the build argument `BUILDKIT_INLINE_CACHE`.
    pub(crate) fn apply(
        &self,
        request: &mut BuildRequest,
        inline: Option<&str>,
    ) -> Result<(), Failure> {
        if self.no_cache {
            request.cache = CacheUse::Ignore;
        }
        let stages = self.no_cache_filter.iter().map(|name| name.to_lowercase());
        request.uncached_stages = stages.collect();
        request.explain_cache = self.cache_explain;
        request.inline_cache = inline.is_some_and(is_true);
        for spec in &self.cache_from {
            request.cache_from.push(source(spec)?);
        }
        for spec in &self.cache_to {
            match sink(spec)? {
                Some(sink) => request.cache_to.push(sink),
                None => request.inline_cache = true,
            }
        }
        Ok(())
    }
}

/// What Go takes for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The keys and values of `type=registry,ref=…`.
struct Spec<'a> {
    flag: &'static str,
    text: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Spec<'a> {
    fn parse(flag: &'static str, text: &'a str) -> Result<Self, Failure> {
        // A reference alone stands for a registry, as in buildx.
        if !text.contains('=') {
            return Ok(Self { flag, text, fields: vec![("type", "registry"), ("ref", text)] });
        }
        let mut spec = Self { flag, text, fields: Vec::new() };
        for field in text.split(',') {
            let field = field.split_once('=').ok_or_else(|| spec.bad("want KEY=VALUE,…"))?;
            spec.fields.push(field);
        }
        Ok(spec)
    }

    fn bad(&self, reason: &str) -> Failure {
        Failure::usage(format!("{} {:?}: {reason}", self.flag, self.text))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.fields.iter().rposition(|(name, _)| *name == key)?;
        Some(self.fields.remove(at).1)
    }

    fn need(&mut self, key: &str) -> Result<&'a str, Failure> {
        self.take(key).filter(|value| !value.is_empty()).ok_or_else(|| {
            let reason = format!("{key} is missing");
            self.bad(&reason)
        })
    }

    fn ttl(&mut self) -> Result<Option<Duration>, Failure> {
        match self.take("ttl") {
            None => Ok(None),
            Some(text) => match duration(text) {
                Some(ttl) => Ok(Some(ttl)),
                None => Err(self.bad("ttl: want 336h or 90m")),
            },
        }
    }

    fn place(&mut self, directory_key: &str) -> Result<Option<CachePlace>, Failure> {
        match self.take("type").unwrap_or("registry") {
            "registry" => {
                // Ours is an image manifest with OCI types in any case.
                for key in ["oci-mediatypes", "image-manifest"] {
                    if self.take(key).is_some_and(|value| !is_true(value)) {
                        let reason = format!("{key}=false is not possible");
                        return Err(self.bad(&reason));
                    }
                }
                Ok(Some(CachePlace::Registry(reference(self.need("ref")?)?)))
            }
            "local" => {
                let directory = PathBuf::from(self.need(directory_key)?);
                let name = self.take("tag");
                let name = self.take("digest").or(name).unwrap_or(LAYOUT_TAG).to_owned();
                Ok(Some(CachePlace::Layout { directory, name }))
            }
            "inline" => Ok(None),
            kind @ ("gha" | "s3" | "azblob") => {
                let reason = format!("type={kind} is not possible: registry, local or inline");
                Err(self.bad(&reason))
            }
            kind => {
                let reason = format!("unknown type {kind:?}: registry, local or inline");
                Err(self.bad(&reason))
            }
        }
    }

    fn end(&self) -> Result<(), Failure> {
        match self.fields.first() {
            None => Ok(()),
            Some((key, _)) => Err(self.bad(&format!("unexpected key {key:?}"))),
        }
    }
}

fn source(text: &str) -> Result<CacheSource, Failure> {
    let mut spec = Spec::parse("--cache-from", text)?;
    let place = spec.place("src")?;
    let place = place
        .ok_or_else(|| spec.bad("a cache inside an image is read with type=registry,ref=IMAGE"))?;
    let ttl = spec.ttl()?;
    spec.end()?;
    Ok(CacheSource { place, ttl })
}

/// `None` is the cache inside the image.
fn sink(text: &str) -> Result<Option<CacheSink>, Failure> {
    let mut spec = Spec::parse("--cache-to", text)?;
    let place = spec.place("dest")?;
    let scope = match spec.take("mode") {
        None | Some("min") => CacheScope::Min,
        Some("max") if place.is_some() => CacheScope::Max,
        Some("max") => return Err(spec.bad("a cache inside an image holds its own steps only")),
        Some(_) => return Err(spec.bad("mode: want min or max")),
    };
    let on_error = if spec.take("ignore-error").is_some_and(is_true) {
        CacheError::Warns
    } else {
        CacheError::Fails
    };
    let ttl = spec.ttl()?;
    let mounts = spec.take("mounts").is_some_and(is_true);
    let mounts_max = match spec.take("mounts-max-size") {
        None => MOUNTS_BYTES_MAX,
        Some(text) => bytes(text).ok_or_else(|| spec.bad("mounts-max-size: want 500MB or 2GiB"))?,
    };
    spec.end()?;
    Ok(place.map(|place| CacheSink {
        place,
        scope,
        ttl,
        on_error,
        mounts_bytes_max: mounts.then_some(mounts_max),
    }))
}

/// `336h`, `90m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let span: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(span).ok()
}

/// A number of bytes: `1000`, `500MB`, `2GiB`; one letter alone is decimal, as in docker.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor);
    }
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor as f64;
    (bytes.is_finite() && 0.0 <= bytes && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spelled_as_buildx_does() {
        let place = |text| source(text).map(|source| source.place.to_string()).ok();
        assert_eq!(place("team/app:1").as_deref(), Some("docker.io/team/app:1"));
        assert_eq!(place("type=registry,ref=h:5000/c").as_deref(), Some("h:5000/c:latest"));
        assert_eq!(place("type=local,src=/c").as_deref(), Some("oci:/c:latest"));
        assert_eq!(place("type=local,src=/c,tag=x").as_deref(), Some("oci:/c:x"));
        for bad in ["type=local", "type=inline", "type=gha", "type=registry", "ref=a,x=y", "a=,b"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }

    #[test]
    fn sinks_have_a_mode_a_time_to_live_and_mounts() {
        let read = |text| sink(text).expect(text);
        assert!(read("type=inline").is_none());
        let plain = read("type=registry,ref=h:5000/c").expect("a place");
        assert_eq!((plain.scope, plain.on_error), (CacheScope::Min, CacheError::Fails));
        assert_eq!((plain.ttl, plain.mounts_bytes_max), (None, None));
        let all = "type=local,dest=/c,mode=max,ttl=2h,ignore-error=true,mounts=true,\
                   mounts-max-size=1.5GB";
        let all = read(all).expect("a place");
        assert_eq!((all.scope, all.on_error), (CacheScope::Max, CacheError::Warns));
        assert_eq!(all.ttl, Some(Duration::from_secs(7200)));
        assert_eq!(all.mounts_bytes_max, Some(1_500_000_000));
        for bad in ["type=inline,mode=max", "ref=a,mode=all", "type=local,src=/c", "ref=a,ttl=x"] {
            assert!(sink(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let cases = [("7", 7), ("2k", 2000), ("2KiB", 2048), ("0.5GB", 500_000_000)];
        for (text, size) in cases {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in ["", "x", "1PB", "-1", "1..2", "99999999999TB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
