// SPDX-License-Identifier: Apache-2.0
//! What does the API server hold, as far as policies see it?
//!
//! The [`Index`] is plain synchronous state: watches apply objects to it, and it keeps the compiler's
//! [`Snapshot`] up to date. It has no runtime, clock or lock, so tests drive it by calling it.

mod decode;
mod interner;
pub mod keep;
pub mod kind;
mod record;
mod services;

mod touched;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use policy_compiler::{
    Snapshot,
    change::Change,
    diagnostic::{Diagnostic, ObjectRef},
    model::{AdminKind, AdminPolicy, Pod, PodKey, PolicyKind, PolicyRef},
    snapshot::Options,
};
use serde_json::Value;

pub use kind::{Kind, Watched};
pub use record::{PolicyRecord, Problem};

use self::{decode::Object, interner::Interner, services::Services, touched::Touched};
use crate::watch::{Event, Trouble};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Absent for cluster-scoped objects.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The object `name` of `namespace`.
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self {
            namespace: namespace.map(Into::into),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// How far a kind has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SyncState {
    /// Never completely.
    #[default]
    Never,
    /// Completely, and changes follow.
    Synced,
    /// The cluster does not have the kind.
    Absent,
}

/// What an event did to the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The snapshot has changed.
    pub changed: bool,
    /// A pod of this node waits for the change.
    pub urgent: bool,
    /// What is to be said about policies has changed.
    pub records: bool,
}

/// Everything the agent knows of the cluster.
#[derive(Debug)]
pub struct Index {
    node: Arc<str>,
    snapshot: Snapshot,
    services: Services,
    /// Pods whose namespace has not been told yet: without its labels they would be judged wrongly.
    early: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Pod>>,
    /// Namespaces that have been told, not only mentioned.
    declared: BTreeSet<Arc<str>>,
    local: BTreeSet<PodKey>,
    node_uids: BTreeMap<Arc<str>, Arc<str>>,
    records: BTreeMap<PolicyRef, PolicyRecord>,
    kinds: BTreeMap<Kind, KindState>,
    interner: Interner,
    /// Objects that were known before the first reading, until that ends.
    former: Snapshot,
    /// What has changed since the changes were last taken.
    touched: Touched,
}

/// How a kind is doing.
#[derive(Clone, Copy, Debug)]
pub struct KindView<'a> {
    /// The kind.
    pub kind: Kind,
    /// How far it has been read.
    pub sync: &'a SyncState,
    /// Why it cannot be read at the moment.
    pub trouble: Option<&'a Trouble>,
    /// Number of objects known.
    pub objects: usize,
    /// How many of them are kept out.
    pub rejected: usize,
}

#[derive(Debug, Default)]
struct KindState {
    sync: SyncState,
    trouble: Option<Trouble>,
    objects: BTreeSet<ObjectKey>,
    /// The objects that are kept out of the snapshot, and why.
    rejected: BTreeMap<ObjectKey, Arc<str>>,
    /// During a resync: objects not told again so far.
    unseen: Option<BTreeSet<ObjectKey>>,
}

impl Index {
    /// An empty index for the agent of `node`.
    pub fn new(node: &str, options: Options) -> Self {
        Self {
            node: node.into(),
            snapshot: Snapshot {
                options,
                ..Snapshot::default()
            },
            services: Services::default(),
            early: BTreeMap::new(),
            declared: BTreeSet::new(),
            local: BTreeSet::new(),
            node_uids: BTreeMap::new(),
            records: BTreeMap::new(),
            kinds: Kind::ALL
                .into_iter()
                .map(|kind| (kind, KindState::default()))
                .collect(),
            interner: Interner::default(),
            former: Snapshot::default(),
            touched: Touched::default(),
        }
    }

    /// Makes a pod hold what it has in common with other pods once, with them.
    pub fn share(&mut self, pod: &mut Pod) {
        self.interner.pod(pod);
    }

    /// Tells what was known before the API server is heard, of pods that went through [`Index::share`]. The
    /// index takes none of it for true, but what it is told again is then held only once.
    pub fn remember(&mut self, known: &Snapshot) {
        self.former = Snapshot {
            pods: known.pods.clone(),
            network_policies: known.network_policies.clone(),
            ..Snapshot::default()
        };
    }

    /// The cluster as far as it has been told.
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What has become of the snapshot since this was last asked. Followed in order, the changes lead from
    /// the snapshot of then to the one of now.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.touched).changes(&self.snapshot)
    }

    /// Whether every kind has been read once, so that the snapshot lacks no policy.
    pub fn is_synced(&self) -> bool {
        self.kinds
            .values()
            .all(|state| state.sync != SyncState::Never)
    }

    /// How each kind is doing.
    pub fn kinds(&self) -> impl Iterator<Item = KindView<'_>> {
        self.kinds.iter().map(|(kind, state)| KindView {
            kind: *kind,
            sync: &state.sync,
            trouble: state.trouble.as_ref(),
            objects: state.objects.len(),
            rejected: state.rejected.len(),
        })
    }

    /// The objects that could not be decoded, with the reason.
    pub fn rejected(&self) -> impl Iterator<Item = (ObjectRef, &str)> {
        self.kinds.iter().flat_map(|(kind, state)| {
            state.rejected.iter().map(|(key, why)| {
                let object = ObjectRef {
                    kind: kind.name().into(),
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                (object, &**why)
            })
        })
    }

    /// What is to be said about each policy.
    pub const fn records(&self) -> &BTreeMap<PolicyRef, PolicyRecord> {
        &self.records
    }

    /// The pods of this node that are in the snapshot.
    pub fn local_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.local
            .iter()
            .filter_map(|key| self.snapshot.pods.get(key))
    }

    /// `metadata.uid` of each node.
    pub const fn node_uids(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.node_uids
    }

    /// Changes the options that compilations follow.
    pub fn set_options(&mut self, options: Options) -> Effect {
        let changed = self.snapshot.options != options;
        self.snapshot.options = options;
        self.touched.options |= changed;
        Effect {
            changed,
            ..Effect::default()
        }
    }

    /// Follows what a watch tells.
    pub fn handle(&mut self, event: Event) -> Effect {
        match event {
            Event::Resync(kind) => self.resync(kind),
            Event::Apply(kind, value) => self.apply(kind, &value),
            Event::Delete(kind, key) => self.delete(kind, &key),
            Event::Synced(kind) => self.synced(kind),
            Event::Absent(kind) => self.absent(kind),
            Event::Trouble(kind, trouble) => {
                self.state(kind).trouble = Some(trouble);
                Effect::default()
            }
            Event::Recovered(kind) => {
                self.state(kind).trouble = None;
                Effect::default()
            }
        }
    }

    /// Objects of `kind` will be told again; those that are not by [`Index::synced`] are gone.
    pub fn resync(&mut self, kind: Kind) -> Effect {
        let state = self.state(kind);
        state.unseen = Some(state.objects.clone());
        Effect::default()
    }

    /// Ends what [`Index::resync`] began.
    pub fn synced(&mut self, kind: Kind) -> Effect {
        let unseen = self.state(kind).unseen.take().unwrap_or_default();
        let mut effect = Effect::default();
        for key in unseen {
            effect = effect.or(self.delete(kind, &key));
        }
        let first = self.reached(kind, SyncState::Synced);
        if self.is_synced() {
            self.former = Snapshot::default();
        }
        effect.changed |= first;
        effect.records |= first;
        effect
    }

    /// The cluster does not have `kind`, so there are no objects of it.
    pub fn absent(&mut self, kind: Kind) -> Effect {
        self.resync(kind);
        let effect = self.synced(kind);
        self.reached(kind, SyncState::Absent);
        effect
    }

    /// Adds or replaces an object. One that cannot be decoded replaces its former version by nothing.
    pub fn apply(&mut self, kind: Kind, value: &Value) -> Effect {
        let mut key = decode::key(value);
        key.namespace = key
            .namespace
            .map(|namespace| self.interner.string(namespace));
        let (objects, problems) = decode::decode(kind, value);
        let rejected: Option<Arc<str>> = match &objects {
            Ok(_) => None,
            Err(why) => {
                tracing::warn!(%kind, object = %key, why, "object kept out");
                Some(Arc::from(&**why))
            }
        };
        let state = self.state(kind);
        state.trouble = None;
        if let Some(unseen) = &mut state.unseen {
            unseen.remove(&key);
        }
        if let Some(known) = state.objects.get(&key) {
            key = known.clone();
        } else {
            state.objects.insert(key.clone());
        }
        match &rejected {
            Some(why) => state.rejected.insert(key.clone(), why.clone()),
            None => state.rejected.remove(&key),
        };

        let mut effect = match objects {
            Ok(Object::Pod(mut pod)) => {
                // One copy of the name, too, which no other object has.
                pod.key.name = key.name.clone();
                self.insert_pod(*pod)
            }
            Ok(object) => self.insert(kind, object),
            Err(_) => self.remove(kind, &key),
        };
        if let Some(record) = self.record(kind, &key, value, &problems, rejected) {
            let old = self.records.get(&record.policy);
            if old != Some(&record) {
                effect.records = true;
                self.records.insert(record.policy.clone(), record);
            }
        }
        effect
    }

    /// Removes an object.
    pub fn delete(&mut self, kind: Kind, key: &ObjectKey) -> Effect {
        let state = self.state(kind);
        state.trouble = None;
        state.objects.remove(key);
        state.rejected.remove(key);
        if let Some(unseen) = &mut state.unseen {
            unseen.remove(key);
        }
        let mut effect = self.remove(kind, key);
        if let Some(kind) = policy_kind(kind) {
            effect.records |= self.records.remove(&policy_ref(kind, key)).is_some();
        }
        effect
    }

    fn state(&mut self, kind: Kind) -> &mut KindState {
        self.kinds.entry(kind).or_default()
    }

    fn record(
        &self,
        kind: Kind,
        key: &ObjectKey,
        value: &Value,
        problems: &[Diagnostic],
        rejected: Option<Arc<str>>,
    ) -> Option<PolicyRecord> {
        let policy = policy_ref(policy_kind(kind)?, key);
        let mut record = PolicyRecord::new(policy);
        record.read(value, problems);
        record.rejected = rejected;
        if let Some(policy) = self.admin_policy(&record.policy) {
            record.audited = policy.audited;
            record.judge(policy);
        } else if let Some(namespace) = &key.namespace {
            let key = (namespace.clone(), key.name.clone());
            let policy = self.snapshot.network_policies.get(&key);
            record.audited = policy.is_some_and(|policy| policy.audited);
        }
        Some(record)
    }

    fn admin_policy(&self, policy: &PolicyRef) -> Option<&Arc<AdminPolicy>> {
        let kind = match policy.kind {
            PolicyKind::NetworkPolicy => return None,
            PolicyKind::AdminNetworkPolicy => AdminKind::Admin,
            PolicyKind::BaselineAdminNetworkPolicy => AdminKind::Baseline,
            PolicyKind::ClusterNetworkPolicy => AdminKind::Cluster,
        };
        let key = (kind, policy.name.clone());
        self.snapshot.admin_policies.get(&key)
    }

    /// Notes that `kind` has been read; says whether that had never been before.
    fn reached(&mut self, kind: Kind, sync: SyncState) -> bool {
        let state = self.state(kind);
        state.trouble = None;
        std::mem::replace(&mut state.sync, sync) == SyncState::Never
    }

    fn insert(&mut self, kind: Kind, object: Object) -> Effect {
        match object {
            Object::Namespace { name, labels } => {
                let before = self.snapshot.namespaces.get(&name).cloned();
                let labels = self.interner.labels(&labels);
                self.snapshot.insert_namespace(&name, labels);
                self.touched.namespaces.insert(name.clone());
                let mut effect = Effect {
                    changed: before.as_ref() != self.snapshot.namespaces.get(&name),
                    ..Effect::default()
                };
                self.declared.insert(name.clone());
                for (_, pod) in self.early.remove(&name).unwrap_or_default() {
                    effect = effect.or(self.insert_pod(pod));
                }
                effect
            }
            Object::Node { mut node, uid } => {
                node.labels = self.interner.labels(&node.labels);
                self.node_uids.insert(node.name.clone(), uid);
                let changed = self.snapshot.nodes.get(&node.name).map(|old| &**old) != Some(&node);
                self.touched.nodes.insert(node.name.clone());
                self.snapshot.insert_node(node);
                Effect {
                    changed,
                    // The fleet of nodes has changed, perhaps.
                    records: changed,
                    ..Effect::default()
                }
            }
            Object::Pod(pod) => self.insert_pod(*pod),
            Object::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                self.services.insert_service(service);
                self.update_services(&[key])
            }
            Object::EndpointSlice(slice) => {
                let touched = self.services.insert_slice(slice);
                self.update_services(&touched)
            }
            Object::NetworkPolicy(policy) => {
                let key = (policy.namespace.clone(), policy.name.clone());
                let old = self.snapshot.network_policies.get(&key);
                let changed = old.map(|old| &**old) != Some(&policy);
                if changed {
                    let former = self.former.network_policies.remove(&key);
                    let former = former.filter(|former| **former == policy);
                    // A copy has no room to grow, which takes as much as what is in the lists of a policy.
                    let policy = former.unwrap_or_else(|| Arc::new(policy.clone()));
                    self.snapshot.ensure_namespace(&key.0);
                    self.snapshot.network_policies.insert(key.clone(), policy);
                    self.touched.network_policies.insert(key);
                }
                Effect {
                    changed,
                    ..Effect::default()
                }
            }
            Object::AdminPolicy(policy) => {
                debug_assert_eq!(Some(PolicyKind::from(policy.kind)), policy_kind(kind));
                let key = (policy.kind, policy.name.clone());
                let old = self.snapshot.admin_policies.get(&key);
                let changed = old.map(|old| &**old) != Some(&policy);
                if changed {
                    self.touched.admin_policies.insert(key);
                    self.snapshot.insert_admin_policy(policy);
                }
                Effect {
                    changed,
                    ..Effect::default()
                }
            }
        }
    }

    fn insert_pod(&mut self, mut pod: Pod) -> Effect {
        if !self.declared.contains(&pod.key.namespace) {
            // The watches of a namespace that goes and of its pods are not in step: a pod that is known
            // goes on being judged by the labels its namespace had. Any other waits.
            let known = self.snapshot.pods.get(&pod.key).map(|known| &known.uid);
            if known != Some(&pod.uid) {
                let changed = self.forget_pod(&pod.key);
                let (namespace, name) = (pod.key.namespace.clone(), pod.key.name.clone());
                self.early.entry(namespace).or_default().insert(name, pod);
                return Effect {
                    changed,
                    ..Effect::default()
                };
            }
        }
        self.interner.pod(&mut pod);
        let is_local = pod.node.as_ref() == Some(&self.node);
        let changed = self.snapshot.pods.get(&pod.key).map(|old| &**old) != Some(&pod);
        if is_local {
            self.local.insert(pod.key.clone());
        } else {
            self.local.remove(&pod.key);
        }
        if changed {
            self.touched.pods.insert(pod.key.clone());
            self.snapshot.ensure_namespace(&pod.key.namespace);
            let former = self.former.pods.remove(&pod.key);
            let former = former.filter(|former| **former == pod);
            self.snapshot
                .pods
                .insert(former.unwrap_or_else(|| pod.into()));
        }
        Effect {
            changed,
            urgent: changed && is_local,
            records: false,
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Effect {
        let named = || {
            let namespace = key.namespace.clone().unwrap_or_default();
            (namespace, key.name.clone())
        };
        let changed = match kind {
            Kind::Namespace => {
                self.declared.remove(&key.name);
                // Its pods and policies are deleted before it; should some be told later, they keep the
                // labels they were judged by.
                self.forget_empty_namespace(&key.name)
            }
            Kind::Node => {
                self.node_uids.remove(&key.name);
                let changed = self.snapshot.nodes.remove(&key.name).is_some();
                self.touched.nodes.insert(key.name.clone());
                return Effect {
                    changed,
                    records: changed,
                    ..Effect::default()
                };
            }
            Kind::Pod => {
                let (namespace, name) = named();
                if let Some(pods) = self.early.get_mut(&namespace) {
                    pods.remove(&name);
                    if pods.is_empty() {
                        self.early.remove(&namespace);
                    }
                }
                let key = PodKey { namespace, name };
                let known = self.forget_pod(&key);
                self.forget_empty_namespace(&key.namespace);
                known
            }
            Kind::Service => {
                self.services.remove_service(&named());
                return self.update_services(&[named()]);
            }
            Kind::EndpointSlice => {
                let touched = self.services.remove_slice(&named());
                return self.update_services(&touched);
            }
            Kind::NetworkPolicy => {
                let key = named();
                let known = self.snapshot.network_policies.remove(&key).is_some();
                self.forget_empty_namespace(&key.0);
                self.touched.network_policies.insert(key);
                known
            }
            Kind::AdminNetworkPolicy => self.remove_admin(AdminKind::Admin, key),
            Kind::BaselineAdminNetworkPolicy => self.remove_admin(AdminKind::Baseline, key),
            Kind::ClusterNetworkPolicy => self.remove_admin(AdminKind::Cluster, key),
        };
        Effect {
            changed,
            ..Effect::default()
        }
    }

    /// Says whether the pod was known.
    fn forget_pod(&mut self, key: &PodKey) -> bool {
        self.local.remove(key);
        self.touched.pods.insert(key.clone());
        self.snapshot.pods.remove(key).is_some()
    }

    /// Removes a namespace that is not there any more, once nothing is left in it; says whether it did.
    fn forget_empty_namespace(&mut self, name: &Arc<str>) -> bool {
        if self.declared.contains(name) {
            return false;
        }
        let first: Arc<str> = "".into();
        let pod = PodKey {
            namespace: name.clone(),
            name: first.clone(),
        };
        let mut pods = self.snapshot.pods.range(pod..);
        let mut policies = self
            .snapshot
            .network_policies
            .range((name.clone(), first)..);
        let inhabited = pods.next().is_some_and(|pod| pod.key.namespace == *name)
            || policies.next().is_some_and(|(policy, _)| policy.0 == *name);
        if inhabited {
            return false;
        }
        self.touched.namespaces.insert(name.clone());
        self.snapshot.namespaces.remove(name).is_some()
    }

    fn remove_admin(&mut self, kind: AdminKind, key: &ObjectKey) -> bool {
        let key = (kind, key.name.clone());
        let known = self.snapshot.admin_policies.remove(&key).is_some();
        self.touched.admin_policies.insert(key);
        known
    }

    /// Puts what is now known of Services into the snapshot.
    fn update_services(&mut self, touched: &[(Arc<str>, Arc<str>)]) -> Effect {
        let mut effect = Effect::default();
        for key in touched {
            self.touched.services.insert(key.clone());
            effect.changed |= match self.services.resolve(key) {
                Some(service) => {
                    let old = self.snapshot.services.get(key);
                    let changed = old.map(|old| &**old) != Some(&service);
                    if changed {
                        self.snapshot.insert_service(service);
                    }
                    changed
                }
                None => self.snapshot.services.remove(key).is_some(),
            };
        }
        effect
    }
}

impl Effect {
    /// Both effects.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            changed: self.changed | other.changed,
            urgent: self.urgent | other.urgent,
            records: self.records | other.records,
        }
    }
}

/// The kind of policy that `kind` is, if it is one.
const fn policy_kind(kind: Kind) -> Option<PolicyKind> {
    match kind {
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice => None,
        Kind::NetworkPolicy => Some(PolicyKind::NetworkPolicy),
        Kind::AdminNetworkPolicy => Some(PolicyKind::AdminNetworkPolicy),
        Kind::BaselineAdminNetworkPolicy => Some(PolicyKind::BaselineAdminNetworkPolicy),
        Kind::ClusterNetworkPolicy => Some(PolicyKind::ClusterNetworkPolicy),
    }
}

fn policy_ref(kind: PolicyKind, key: &ObjectKey) -> PolicyRef {
    PolicyRef {
        kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}
