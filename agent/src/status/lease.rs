// SPDX-License-Identifier: Apache-2.0
//! Which agent writes the status?

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::writer::within;
use crate::watch::shortened;

/// The rule of the election, without clock or network.
///
/// A candidate believes a Lease to be held until it has seen it unchanged for its whole duration, on the
/// candidate's own clock, so that clocks that differ between nodes do not matter. The holder stops
/// believing in itself earlier, two thirds of the duration after its last successful write.
#[derive(Debug)]
pub struct Election {
    identity: String,
    duration: Duration,
    seen: Option<(LeaseSpec, Instant)>,
    renewed: Option<Instant>,
}

/// What a candidate does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this, on the condition that the Lease is still as it was read.
    Write(Box<LeaseSpec>),
    /// Somebody else holds the Lease.
    Wait,
}

impl Election {
    /// A candidate called `identity`; `duration` is rounded down to seconds.
    pub fn new(identity: String, duration: Duration) -> Self {
        Self {
            identity,
            duration,
            seen: None,
            renewed: None,
        }
    }

    /// Decides what to do about the Lease as just read; `wall` is only recorded, never compared.
    pub fn step(&mut self, lease: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = lease else {
            return self.write(None, wall);
        };
        let seen = match &self.seen {
            Some((known, since)) if known == lease => *since,
            _ => {
                self.seen = Some((lease.clone(), now));
                now
            }
        };
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        let held_for = lease
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        if holder.is_empty() || holder == self.identity || now.duration_since(seen) >= held_for {
            self.write(Some(lease), wall)
        } else {
            self.renewed = None;
            Step::Wait
        }
    }

    /// Notes that a write which was begun at `started` succeeded or failed.
    pub fn written(&mut self, started: Instant, succeeded: bool) {
        if succeeded {
            self.renewed = Some(started);
        }
    }

    /// Whether this candidate may act as the holder.
    pub fn holds(&self, now: Instant) -> bool {
        self.renewed
            .is_some_and(|renewed| now.duration_since(renewed) < self.duration * 2 / 3)
    }

    /// How long to wait before the next step: holders renew four times per duration, candidates look
    /// once, so that thousands of them do not burden the API server.
    pub fn pause(&self, now: Instant) -> Duration {
        if self.holds(now) {
            self.duration / 4
        } else {
            self.duration
        }
    }

    fn write(&self, old: Option<&LeaseSpec>, wall: Timestamp) -> Step {
        let same_holder =
            old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        Step::Write(Box::new(LeaseSpec {
            acquire_time: if same_holder {
                old.and_then(|old| old.acquire_time.clone())
            } else {
                Some(MicroTime(wall))
            },
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            lease_transitions: Some(if same_holder || old.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            renew_time: Some(MicroTime(wall)),
            ..LeaseSpec::default()
        }))
    }
}

/// Takes part in the election until `stop`, and gives the Lease up at the end. `leading` says whether
/// this agent may write right now.
pub async fn campaign(
    client: Client,
    namespace: &str,
    name: &str,
    mut election: Election,
    leading: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let limit = election.duration / 3;
    loop {
        let started = Instant::now();
        // A connection that is dead without knowing must not keep the holder from stepping down.
        let attempt = attempt(&api, name, &mut election, started);
        let outcome = within(limit, attempt).await;
        if let Err(why) = outcome {
            tracing::warn!(why, lease = %format_args!("{namespace}/{name}"), "lease not available");
        }
        let holds = election.holds(Instant::now());
        leading.send_if_modified(|leads| std::mem::replace(leads, holds) != holds);
        let pause = shortened(election.pause(Instant::now()), 0.2);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => break,
        }
    }
    if election.holds(Instant::now()) {
        leading.send_replace(false);
        if let Err(why) = within(limit, release(&api, name, &election)).await {
            tracing::warn!(why, "lease not released; it expires by itself");
        }
    }
}

async fn attempt(
    api: &Api<Lease>,
    name: &str,
    election: &mut Election,
    started: Instant,
) -> kube::Result<()> {
    let lease = api.get_opt(name).await?;
    let spec = lease
        .as_ref()
        .map(|lease| lease.spec.clone().unwrap_or_default());
    let Step::Write(next) = election.step(spec.as_ref(), started, Timestamp::now()) else {
        return Ok(());
    };
    let written = if let Some(mut lease) = lease {
        lease.spec = Some(*next);
        api.replace(name, &PostParams::default(), &lease).await
    } else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(*next),
        };
        api.create(&PostParams::default(), &lease).await
    };
    election.written(started, written.is_ok());
    match written {
        Ok(_) => Ok(()),
        // Somebody was faster: that is what the condition is for.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, name: &str, election: &Election) -> kube::Result<()> {
    let mut lease = api.get(name).await?;
    if let Some(spec) = &mut lease.spec
        && spec.holder_identity.as_deref() == Some(&election.identity)
    {
        spec.holder_identity = None;
        api.replace(name, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    fn candidate(name: &str) -> Election {
        Election::new(name.into(), TERM)
    }

    #[track_caller]
    fn takes(election: &mut Election, lease: Option<&LeaseSpec>, now: Instant) -> LeaseSpec {
        match election.step(lease, now, Timestamp::UNIX_EPOCH) {
            Step::Write(spec) => {
                election.written(now, true);
                *spec
            }
            Step::Wait => panic!("expected {election:?} to write"),
        }
    }

    #[test]
    fn first_come_first_served() {
        let now = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let lease = takes(&mut a, None, now);
        assert!(a.holds(now));
        assert_eq!(b.step(Some(&lease), now, Timestamp::UNIX_EPOCH), Step::Wait);
        assert!(!b.holds(now));
    }

    #[test]
    fn a_renewed_lease_never_expires_whatever_the_clocks_say() {
        let start = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let mut lease = takes(&mut a, None, start);
        for second in 1..100 {
            // The holder's wall clock stands in 1970, as far from anybody's as can be.
            let now = start + Duration::from_secs(second * 5);
            let wall = Timestamp::from_second(i64::try_from(second).unwrap()).unwrap();
            let Step::Write(next) = a.step(Some(&lease), now, wall) else {
                panic!("the holder renews");
            };
            a.written(now, true);
            lease = *next;
            assert_eq!(b.step(Some(&lease), now, wall), Step::Wait);
        }
        assert_eq!(lease.lease_transitions, Some(0));
    }

    #[test]
    fn a_silent_holder_steps_down_before_anybody_takes_over() {
        let start = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let lease = takes(&mut a, None, start);
        assert_eq!(
            b.step(Some(&lease), start, Timestamp::UNIX_EPOCH),
            Step::Wait
        );
        let almost = start + TERM.saturating_sub(Duration::from_millis(1));
        assert_eq!(
            b.step(Some(&lease), almost, Timestamp::UNIX_EPOCH),
            Step::Wait
        );
        assert!(!a.holds(almost));
        let taken = takes(&mut b, Some(&lease), start + TERM);
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(
            a.step(Some(&taken), start + TERM, Timestamp::UNIX_EPOCH),
            Step::Wait
        );
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let now = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let mut lease = takes(&mut a, None, now);
        assert_eq!(b.step(Some(&lease), now, Timestamp::UNIX_EPOCH), Step::Wait);
        lease.holder_identity = None;
        takes(&mut b, Some(&lease), now);
        assert!(b.holds(now));
    }

    #[test]
    fn a_failed_write_is_no_leadership() {
        let now = Instant::now();
        let mut a = candidate("a");
        assert!(matches!(
            a.step(None, now, Timestamp::UNIX_EPOCH),
            Step::Write(_)
        ));
        a.written(now, false);
        assert!(!a.holds(now));
    }
}
