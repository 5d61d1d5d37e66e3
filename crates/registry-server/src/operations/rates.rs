//! How fast and how much at once: token buckets per principal and address, counts per address.
//! Time comes in as a value.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Principals or addresses remembered at once. Beyond it those without a bucket share one.
const BUCKETS_MAX: usize = 65_536;

/// Requests per second, with some more at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second, in the long run.
    pub per_second: u32,
    /// Requests at once after a pause.
    pub burst: u32,
}

/// Limits per client; none without a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Reads (GET and HEAD) of one address. IPv6 addresses count by their first 64 bits.
    pub reads_per_address: Option<Rate>,
    /// Other requests of one address.
    pub writes_per_address: Option<Rate>,
    /// Reads of one principal.
    pub reads_per_principal: Option<Rate>,
    /// Other requests of one principal.
    pub writes_per_principal: Option<Rate>,
    /// Requests of one address under way at once.
    pub requests_per_address_max: Option<u32>,
    /// Connections of one address at once.
    pub connections_per_address_max: Option<u32>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// GET and HEAD.
    Read,
    /// Everything else.
    Write,
}

/// Too much: how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

/// Lets requests and connections in.
pub(crate) struct Admission {
    began: Instant,
    limits: Mutex<Limits>,
    connections: Mutex<HashMap<IpAddr, u32>>,
    requests: Mutex<HashMap<IpAddr, u32>>,
}

struct Limits {
    rates: Rates,
    addresses: [Buckets<IpAddr>; 2],
    principals: [Buckets<String>; 2],
}

/// One of a limited number; gives its place back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Option<(Arc<Admission>, Kind)>,
    address: IpAddr,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Connection,
    Request,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            began: Instant::now(),
            limits: Mutex::new(Limits::new(rates)),
            connections: Mutex::default(),
            requests: Mutex::default(),
        }
    }

    /// Changes the limits; what was used up so far is forgotten.
    pub(crate) fn change(&self, rates: Rates) {
        let mut limits = lock(&self.limits);
        if limits.rates != rates {
            *limits = Limits::new(rates);
        }
    }

    /// Takes a request of an address into account.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn address(&self, address: IpAddr, access: Access) -> Result<(), Wait> {
        let mut limits = lock(&self.limits);
        let rate = match access {
            Access::Read => limits.rates.reads_per_address,
            Access::Write => limits.rates.writes_per_address,
        };
        let Some(rate) = rate else { return Ok(()) };
        limits.addresses[access as usize].take(&network(address), rate, self.began.elapsed())
    }

    /// Takes a request of a principal into account; nobody in particular has no limit but that of
    /// the address.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn principal(&self, name: &str, access: Access) -> Result<(), Wait> {
        let mut limits = lock(&self.limits);
        let rate = match access {
            Access::Read => limits.rates.reads_per_principal,
            Access::Write => limits.rates.writes_per_principal,
        };
        let (Some(rate), false) = (rate, name.is_empty()) else { return Ok(()) };
        limits.principals[access as usize].take(&name.to_owned(), rate, self.began.elapsed())
    }

    /// A place for a connection; none if the address has all it may have.
    pub(crate) fn connection(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let most = lock(&self.limits).rates.connections_per_address_max;
        self.place(address, most, Kind::Connection)
    }

    /// A place for a request; none if the address has all it may have.
    pub(crate) fn request(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let most = lock(&self.limits).rates.requests_per_address_max;
        self.place(address, most, Kind::Request)
    }

    fn place(self: &Arc<Self>, address: IpAddr, most: Option<u32>, kind: Kind) -> Option<Place> {
        let address = network(address);
        let Some(most) = most else { return Some(Place { admission: None, address }) };
        let mut counts = lock(self.counts(kind));
        let count = counts.get(&address).copied().unwrap_or(0);
        if most <= count {
            return None;
        }
        counts.insert(address, count + 1);
        drop(counts);
        Some(Place { admission: Some((Arc::clone(self), kind)), address })
    }

    const fn counts(&self, kind: Kind) -> &Mutex<HashMap<IpAddr, u32>> {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Request => &self.requests,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((admission, kind)) = &self.admission else { return };
        let mut counts = lock(admission.counts(*kind));
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

impl Limits {
    fn new(rates: Rates) -> Self {
        Self { rates, addresses: Default::default(), principals: Default::default() }
    }
}

/// What counts as one client: an IPv6 client has at least 64 bits to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        address => address,
    }
}

/// Buckets by whom they are for, in bounded memory.
#[derive(Debug)]
struct Buckets<K> {
    buckets: HashMap<K, Bucket>,
    /// For those that there is no room for.
    shared: Bucket,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), shared: Bucket::default() }
    }
}

/// When the bucket would be full again if nothing more were taken, since the beginning. Without
/// debt that lies in the past, so a new bucket is a full one.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: Duration,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn take(&mut self, key: &K, rate: Rate, now: Duration) -> Result<(), Wait> {
        if let Some(bucket) = self.buckets.get_mut(key) {
            return bucket.take(rate, now);
        }
        if BUCKETS_MAX <= self.buckets.len() {
            // A full bucket says nothing that a new one does not.
            self.buckets.retain(|_, bucket| now < bucket.full_at);
        }
        if BUCKETS_MAX <= self.buckets.len() {
            return self.shared.take(rate, now);
        }
        let mut bucket = Bucket::default();
        let taken = bucket.take(rate, now);
        self.buckets.insert(key.clone(), bucket);
        taken
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Wait> {
        let one = Duration::from_secs(1) / rate.per_second.max(1);
        let debt_max = one * rate.burst.max(1);
        let full_at = self.full_at.max(now) + one;
        if full_at - now > debt_max {
            return Err(Wait(full_at - now - debt_max));
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let mut buckets = Buckets::default();
        let mut at = |milliseconds| buckets.take(&"a", RATE, Duration::from_millis(milliseconds));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Wait(Duration::from_millis(100))));
        assert_eq!(at(40), Err(Wait(Duration::from_millis(60))));
        assert_eq!(at(100), Ok(()));
        assert_eq!(at(100), Err(Wait(Duration::from_millis(100))));
        assert_eq!([at(1000), at(1000), at(1000)], [Ok(()); 3]);
        assert!(at(1000).is_err());
    }

    #[test]
    fn everybody_has_a_bucket_until_memory_is_used_up() {
        let mut buckets = Buckets::default();
        let rate = Rate { per_second: 1, burst: 1 };
        for key in 0..BUCKETS_MAX {
            assert!(buckets.take(&key, rate, Duration::ZERO).is_ok());
        }
        assert!(buckets.take(&BUCKETS_MAX, rate, Duration::ZERO).is_ok(), "the shared one");
        assert!(buckets.take(&(BUCKETS_MAX + 1), rate, Duration::ZERO).is_err());
        assert_eq!(buckets.buckets.len(), BUCKETS_MAX);
        assert!(buckets.take(&0, rate, Duration::ZERO).is_err(), "known ones keep theirs");
        let later = Duration::from_secs(2);
        assert!(buckets.take(&(BUCKETS_MAX + 1), rate, later).is_ok());
        assert_eq!(buckets.buckets.len(), 1, "full buckets make room");
    }

    #[test]
    fn ipv6_clients_count_by_their_network() {
        let address = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn places_come_back_when_they_are_left() {
        let rates = Rates { connections_per_address_max: Some(2), ..Rates::default() };
        let admission = Arc::new(Admission::new(rates));
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let first = admission.connection(a).expect("a place");
        let _second = admission.connection(a).expect("a place");
        assert!(admission.connection(a).is_none());
        assert!(admission.connection(b).is_some(), "of another address");
        drop(first);
        assert!(admission.connection(a).is_some());
        assert_eq!(lock(&admission.connections).len(), 1, "nothing is kept of those who left");
    }

    #[test]
    fn nobody_in_particular_is_limited_by_address_only() {
        let rate = Some(Rate { per_second: 1, burst: 1 });
        let rates = Rates { reads_per_principal: rate, ..Rates::default() };
        let admission = Admission::new(rates);
        for _ in 0..3 {
            assert_eq!(admission.principal("", Access::Read), Ok(()));
            assert_eq!(admission.principal("a", Access::Write), Ok(()));
        }
        assert_eq!(admission.principal("a", Access::Read), Ok(()));
        assert!(admission.principal("a", Access::Read).is_err());
        admission.change(Rates::default());
        assert_eq!(admission.principal("a", Access::Read), Ok(()));
    }
}
