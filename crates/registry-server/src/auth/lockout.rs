//! Guessing made slow: failures are counted per user and client network, and per client network
//! alone, never per user alone, because that would let anybody lock anybody out.
//!
//! After five failures of one user from one network the next attempt must wait a second, then two,
//! four and so on; at ten the pair is locked for a quarter of an hour. A network has a bucket of
//! failures over all users, against trying one password on many. Times are arguments.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Failures of a pair that cost nothing.
const FREE_FAILURES: u32 = 5;

/// Failures of a pair after which it is locked.
const LOCK_FAILURES: u32 = 10;

/// How long a pair is locked, and after how long without a failure it is forgotten.
const LOCK: Duration = Duration::from_secs(15 * 60);

/// Failures that one network may have at once, whatever the user.
const NETWORK_FAILURES_MAX: u32 = 50;

/// Time in which a network is forgiven one failure.
const NETWORK_PARDON: Duration = Duration::from_secs(6);

/// Pairs, and networks, that are remembered; beyond that the least dangerous are forgotten.
const REMEMBERED_MAX: usize = 16 * 1024;

/// An IPv4 address, or the first 64 bits of an IPv6 address: what one customer of a provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network(u64, bool);

/// A user, as a keyed hash, and where the attempt came from.
type Pair = (u64, Network);

/// What is known of failures.
#[derive(Debug, Default)]
pub(crate) struct Lockout {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hasher: RandomState,
    pairs: HashMap<Pair, Failures>,
    networks: HashMap<Network, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: SystemTime,
    /// No attempt before this.
    until: SystemTime,
}

/// One attempt to log in with a name.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    lockout: Arc<Lockout>,
    user: String,
    from: IpAddr,
    now: SystemTime,
}

impl Attempt {
    pub(crate) fn new(lockout: &Arc<Lockout>, user: &str, from: IpAddr, now: SystemTime) -> Self {
        Self { lockout: Arc::clone(lockout), user: user.to_owned(), from, now }
    }

    /// Whether it may be made now.
    ///
    /// # Errors
    /// How long it must wait first.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        self.lockout.admit(&self.user, self.from, self.now)
    }

    /// Counts it.
    pub(crate) fn settle(&self, is_right: bool) {
        if is_right {
            self.lockout.succeeded(&self.user, self.from);
        } else {
            self.lockout.failed(&self.user, self.from, self.now);
        }
    }
}

impl Lockout {
    /// Whether somebody may try now.
    ///
    /// # Errors
    /// How long they must wait first.
    pub(crate) fn admit(
        &self,
        user: &str,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<(), Duration> {
        let network = network(address);
        let state = self.lock();
        let pair = state.pairs.get(&(state.hasher.hash_one(user), network));
        let of_network = state.networks.get(&network);
        let wait = [pair, of_network]
            .into_iter()
            .flatten()
            .filter_map(|failures| failures.until.duration_since(now).ok())
            .max()
            .unwrap_or_default();
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, user: &str, address: IpAddr, now: SystemTime) {
        let network = network(address);
        let mut state = self.lock();
        let pair = (state.hasher.hash_one(user), network);
        let fresh = Failures { count: 0, last: now, until: now };
        make_room(&mut state.pairs, now);
        let failures = state.pairs.entry(pair).or_insert(fresh);
        if failures.is_forgotten(now) {
            *failures = fresh;
        }
        failures.count += 1;
        failures.last = now;
        failures.until = now + delay(failures.count);
        if failures.count >= LOCK_FAILURES {
            tracing::warn!(user, %address, "too many wrong passwords, locked for 15 minutes");
        }
        state.count_for_network(network, now);
    }

    /// Forgets the failures of somebody who knew the password after all.
    pub(crate) fn succeeded(&self, user: &str, address: IpAddr) {
        let mut state = self.lock();
        let pair = (state.hasher.hash_one(user), network(address));
        state.pairs.remove(&pair);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count_for_network(&mut self, network: Network, now: SystemTime) {
        make_room(&mut self.networks, now);
        let fresh = Failures { count: 0, last: now, until: now };
        let failures = self.networks.entry(network).or_insert(fresh);
        // What was forgiven since.
        let passed = now.duration_since(failures.last).unwrap_or_default();
        let forgiven = u32::try_from(passed.as_secs() / NETWORK_PARDON.as_secs());
        failures.count = failures.count.saturating_sub(forgiven.unwrap_or(u32::MAX)) + 1;
        failures.last = now;
        if failures.count >= NETWORK_FAILURES_MAX {
            failures.until = now + NETWORK_PARDON;
        }
    }
}

impl Failures {
    fn is_forgotten(&self, now: SystemTime) -> bool {
        now.duration_since(self.last.max(self.until)).is_ok_and(|passed| passed >= LOCK)
    }
}

/// The wait after so many failures of a pair.
fn delay(failures: u32) -> Duration {
    match failures {
        0..FREE_FAILURES => Duration::ZERO,
        FREE_FAILURES..LOCK_FAILURES => Duration::from_secs(1 << (failures - FREE_FAILURES)),
        LOCK_FAILURES.. => LOCK,
    }
}

fn network(address: IpAddr) -> Network {
    let of_v4 = |address: Ipv4Addr| Network(address.to_bits().into(), true);
    match address.to_canonical() {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => {
            Network(u64::try_from(address.to_bits() >> 64).unwrap_or_default(), false)
        }
    }
}

/// Forgets what is over; if that is not enough, a quarter of the rest, locks last.
fn make_room<K: Copy + Eq + Hash>(failures: &mut HashMap<K, Failures>, now: SystemTime) {
    if failures.len() < REMEMBERED_MAX {
        return;
    }
    failures.retain(|_, failures| !failures.is_forgotten(now));
    if failures.len() < REMEMBERED_MAX / 4 * 3 {
        return;
    }
    let mut all: Vec<_> = failures.iter().map(|(key, it)| (it.until, it.last, *key)).collect();
    all.sort_by_key(|one| (one.0, one.1));
    for (_, _, key) in all.into_iter().take(REMEMBERED_MAX / 4) {
        failures.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn time(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_wait_doubles_after_five_failures_and_ten_lock_the_pair() {
        let lockout = Lockout::default();
        let here = address("192.0.2.1");
        let wait = |now| lockout.admit("alice", here, time(now)).err().map(|wait| wait.as_secs());
        let mut now = 0;
        for expected in [0, 0, 0, 0, 1, 2, 4, 8, 16, 900] {
            assert_eq!(wait(now), None);
            lockout.failed("alice", here, time(now));
            assert_eq!(wait(now).unwrap_or(0), expected);
            now += expected;
        }
        assert_eq!(wait(now - 1), Some(1));
        assert_eq!(wait(now), None, "the lock ends");
        lockout.failed("alice", here, time(now));
        assert_eq!(wait(now), Some(900), "and comes back with the next failure");
        let later = now + 900 + 900;
        lockout.failed("alice", here, time(later));
        assert_eq!(wait(later), None, "a quarter of an hour without one forgets everything");
    }

    #[test]
    fn nobody_can_lock_a_user_out_from_elsewhere() {
        let lockout = Lockout::default();
        let attacker = address("192.0.2.1");
        for _ in 0..40 {
            lockout.failed("alice", attacker, time(0));
        }
        assert!(lockout.admit("alice", attacker, time(0)).is_err());
        assert!(lockout.admit("alice", address("192.0.2.2"), time(0)).is_ok());
        assert!(lockout.admit("bob", attacker, time(0)).is_ok());
    }

    #[test]
    fn one_customer_is_one_network() {
        let same = |one: &str, other: &str| network(address(one)) == network(address(other));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("0.0.0.1", "0:0:0:1::"));
    }

    #[test]
    fn one_password_tried_on_many_users_is_slowed_down() {
        let lockout = Lockout::default();
        let here = address("192.0.2.1");
        for n in 0..50 {
            assert!(lockout.admit(&n.to_string(), here, time(0)).is_ok(), "{n}");
            lockout.failed(&n.to_string(), here, time(0));
        }
        assert_eq!(lockout.admit("new", here, time(0)), Err(NETWORK_PARDON));
        assert!(lockout.admit("new", here, time(6)).is_ok());
        lockout.failed("new", here, time(6));
        assert!(lockout.admit("new", here, time(7)).is_err());
        assert!(lockout.admit("new", here, time(300)).is_ok());
    }

    #[test]
    fn a_right_password_is_a_fresh_start() {
        let lockout = Lockout::default();
        let here = address("192.0.2.1");
        for _ in 0..4 {
            lockout.failed("alice", here, time(0));
        }
        lockout.succeeded("alice", here);
        for _ in 0..4 {
            lockout.failed("alice", here, time(0));
        }
        assert!(lockout.admit("alice", here, time(0)).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_locks_are_forgotten_last() {
        let lockout = Lockout::default();
        let locked = address("192.0.2.1");
        for _ in 0..10 {
            lockout.failed("alice", locked, time(0));
        }
        for n in 0..40_000_u32 {
            lockout.failed("x", IpAddr::V4(Ipv4Addr::from_bits(n)), time(1));
        }
        let state = lockout.lock();
        assert!(state.pairs.len() <= REMEMBERED_MAX && state.networks.len() <= REMEMBERED_MAX);
        drop(state);
        assert!(lockout.admit("alice", locked, time(2)).is_err());
    }
}
