// SPDX-License-Identifier: Apache-2.0
//! Which numbers does the agent publish?

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// Every metric of the agent. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    observers: Arc<Mutex<Vec<Observer>>>,

    /// Packets that a rule, isolation or the lack of a policy decided. `netpol_verdicts_total`
    pub verdicts: Family<VerdictLabels, Counter>,
    /// Packets dropped, by why. `netpol_drops_total`
    pub drops: Family<DropLabels, Counter>,
    /// Pod interfaces and pods of this node, by state. `netpol_endpoints`
    pub endpoints: Family<StateLabel, Gauge>,
    /// From a new interface to its quarantine. `netpol_attach_seconds`
    pub attach: Histogram,
    /// From tables to maps. `netpol_apply_seconds`
    pub apply: Histogram,
    /// From snapshot to tables. `netpol_compile_seconds`
    pub compile: Histogram,
    /// From the agent's reading a change from its connection to the API server to its being in force, for
    /// the oldest change of each publication. `netpol_policy_lag_seconds`
    pub policy_lag: Histogram,
    /// Entries in use of each map. `netpol_map_entries`
    pub map_entries: Family<MapLabel, Gauge>,
    /// Entries that fit in each map. `netpol_map_capacity`
    pub map_capacity: Family<MapLabel, Gauge>,
    /// Tracked flows. `netpol_ct_entries`
    pub ct_entries: Gauge,
    /// Flows and fragments that were forgotten because they were idle. `netpol_ct_expired_total`
    pub ct_expired: Counter,
    /// Events that were not reported: the pod's budget was spent or the ring full.
    /// `netpol_events_lost_total`
    pub events_lost: Counter,
    /// Programs or links that somebody removed and the agent put back. `netpol_drift_repairs_total`
    pub drift_repairs: Counter,
    /// Services of which a pod may reach some backends only. `netpol_services_mixed`
    pub services_mixed: Gauge,

    /// Objects known, by kind. `netpol_objects`
    pub objects: Family<KindLabel, Gauge>,
    /// Objects kept out because they cannot be decoded, by kind. `netpol_objects_rejected`
    pub objects_rejected: Family<KindLabel, Gauge>,
    /// 1 where the kind has been read and no error stands. `netpol_watch_synced`
    pub watch_synced: Family<KindLabel, Gauge>,
    /// Failed requests of watches, by kind. `netpol_watch_errors_total`
    pub watch_errors: Family<KindLabel, Counter>,
    /// Compilations whose result was not published, by why. `netpol_publish_failures_total`
    pub publish_failures: Family<ReasonLabel, Counter>,
    /// Writes to the API server, by what and how they ended. `netpol_status_writes_total`
    pub status_writes: Family<WriteLabels, Counter>,
    /// 1 where this agent writes the status. `netpol_leader`
    pub leader: Gauge,
    /// 1 where every local pod is programmed. `netpol_ready`
    pub ready: Gauge,
}

/// Brings metrics up to date that are read from elsewhere, such as the kernel, at every scrape.
type Observer = Box<dyn Fn(&Metrics) + Send>;

/// Labels of [`Metrics::verdicts`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabels {
    /// `ingress` or `egress`, or `either` where one reason serves both: isolation, the lack of a policy.
    pub dir: &'static str,
    /// `admin`, `networkpolicy`, `baseline` or `default`.
    pub tier: &'static str,
    /// `allow` or `deny`.
    pub action: &'static str,
}

/// Labels of [`Metrics::drops`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    /// `ingress` or `egress`.
    pub dir: &'static str,
    /// Why.
    pub reason: String,
}

/// Label of [`Metrics::endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// `enforced`, `quarantined`, `unsupported` or `unisolated`.
    pub state: &'static str,
}

/// Label of the metrics about maps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapLabel {
    /// Name of the map.
    pub map: &'static str,
}

/// Label of the metrics about watched objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// `Pod`, ...
    pub kind: &'static str,
}

/// Label of [`Metrics::publish_failures`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One word in `CamelCase`.
    pub reason: String,
}

/// Labels of [`Metrics::status_writes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// `condition`, `report` or `event`.
    pub object: &'static str,
    /// `written`, `unchanged` or `failed`.
    pub result: &'static str,
}

impl Metrics {
    /// Fresh metrics, all zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            observers: Arc::default(),
            verdicts: Family::default(),
            drops: Family::default(),
            endpoints: Family::default(),
            attach: seconds(),
            apply: seconds(),
            compile: seconds(),
            policy_lag: seconds(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            ct_entries: Gauge::default(),
            ct_expired: Counter::default(),
            events_lost: Counter::default(),
            drift_repairs: Counter::default(),
            services_mixed: Gauge::default(),
            objects: Family::default(),
            objects_rejected: Family::default(),
            watch_synced: Family::default(),
            watch_errors: Family::default(),
            publish_failures: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
            ready: Gauge::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    /// Has `observer` called before every scrape.
    pub fn observe(&self, observer: impl Fn(&Self) + Send + 'static) {
        let mut observers = self
            .observers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        observers.push(Box::new(observer));
    }

    /// Everything in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let observers = self
            .observers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for observer in &*observers {
            observer(self);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("netpol");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The agent", Info::new(version));

        let r = &mut registry;
        r.register(
            "verdicts",
            "Packets decided by a rule, isolation or the lack of a policy",
            self.verdicts.clone(),
        );
        r.register("drops", "Packets dropped", self.drops.clone());
        r.register("endpoints", "Pods of this node", self.endpoints.clone());
        let unit = || Unit::Seconds;
        let help = "From a new interface to its quarantine";
        r.register_with_unit("attach", help, unit(), self.attach.clone());
        r.register_with_unit("apply", "From tables to maps", unit(), self.apply.clone());
        let help = "From snapshot to tables";
        r.register_with_unit("compile", help, unit(), self.compile.clone());
        let help = "From a change being read from the API server to its being in force";
        r.register_with_unit("policy_lag", help, unit(), self.policy_lag.clone());
        r.register("map_entries", "Entries in use", self.map_entries.clone());
        r.register(
            "map_capacity",
            "Entries that fit",
            self.map_capacity.clone(),
        );
        r.register("ct_entries", "Tracked flows", self.ct_entries.clone());
        let help = "Flows forgotten because they were idle";
        r.register("ct_expired", help, self.ct_expired.clone());
        let help = "Events beyond a pod's budget or the ring's room";
        r.register("events_lost", help, self.events_lost.clone());
        let help = "Programs or links that somebody removed and the agent put back";
        r.register("drift_repairs", help, self.drift_repairs.clone());
        let help = "Services of which a pod may reach some backends only";
        r.register("services_mixed", help, self.services_mixed.clone());

        r.register("objects", "Objects known", self.objects.clone());
        let help = "Objects kept out because they cannot be decoded";
        r.register("objects_rejected", help, self.objects_rejected.clone());
        let help = "1 where the kind has been read and no error stands";
        r.register("watch_synced", help, self.watch_synced.clone());
        r.register(
            "watch_errors",
            "Failed requests of watches",
            self.watch_errors.clone(),
        );
        let help = "Compilations whose result was not published";
        r.register("publish_failures", help, self.publish_failures.clone());
        let help = "Writes to the API server";
        r.register("status_writes", help, self.status_writes.clone());
        r.register(
            "leader",
            "1 where this agent writes the status",
            self.leader.clone(),
        );
        r.register(
            "ready",
            "1 where every local pod is programmed",
            self.ready.clone(),
        );
        registry
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Sets a counter whose total is kept elsewhere; it never goes back.
pub fn set_total(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

/// From 1 ms to 16 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::new();
        metrics
            .verdicts
            .get_or_create(&VerdictLabels {
                dir: "ingress",
                tier: "admin",
                action: "deny",
            })
            .inc();
        metrics
            .drops
            .get_or_create(&DropLabels {
                dir: "egress",
                reason: "Isolated".into(),
            })
            .inc();
        let state = StateLabel { state: "enforced" };
        metrics.endpoints.get_or_create(&state).set(3);
        let map = MapLabel { map: "TRIE4" };
        metrics.map_entries.get_or_create(&map).set(7);
        metrics.map_capacity.get_or_create(&map).set(9);
        let text = metrics.encode().unwrap();
        for line in [
            r#"netpol_verdicts_total{dir="ingress",tier="admin",action="deny"} 1"#,
            r#"netpol_drops_total{dir="egress",reason="Isolated"} 1"#,
            r#"netpol_endpoints{state="enforced"} 3"#,
            "netpol_attach_seconds_count 0",
            "netpol_apply_seconds_count 0",
            "netpol_policy_lag_seconds_count 0",
            "netpol_compile_seconds_count 0",
            r#"netpol_map_entries{map="TRIE4"} 7"#,
            r#"netpol_map_capacity{map="TRIE4"} 9"#,
            "netpol_ct_entries 0",
            "netpol_ct_expired_total 0",
            "netpol_events_lost_total 0",
            "netpol_drift_repairs_total 0",
            "netpol_services_mixed 0",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn observers_run_at_every_scrape() {
        let metrics = Metrics::new();
        metrics.observe(|metrics| {
            let next = metrics.ct_expired.get() + 5;
            set_total(&metrics.ct_expired, next);
        });
        assert!(
            metrics
                .encode()
                .unwrap()
                .contains("netpol_ct_expired_total 5\n")
        );
        assert!(
            metrics
                .encode()
                .unwrap()
                .contains("netpol_ct_expired_total 10\n")
        );
    }
}
