// SPDX-License-Identifier: Apache-2.0
//! Which pods are there, by namespace and name?

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, btree_set},
    ops::{Index, RangeBounds},
    sync::Arc,
};

use crate::model::{Pod, PodKey};

/// Pods in the order of their keys.
///
/// A map from a pod's key to the pod that reads the key in the pod: a node's agent holds every pod of the
/// cluster in several snapshots, where keys beside the pods would take more than everything else.
#[derive(Clone, Debug, Default)]
pub struct Pods(BTreeSet<ByKey>);

/// A pod that stands where its key does.
#[derive(Clone, Debug)]
struct ByKey(Arc<Pod>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl Borrow<PodKey> for ByKey {
    fn borrow(&self) -> &PodKey {
        &self.0.key
    }
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.values().eq(other.values())
    }
}

impl Eq for Pods {}

impl Pods {
    /// The pod with the key.
    pub fn get(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        self.0.get(key).map(|ByKey(pod)| pod)
    }

    /// Whether there is a pod with the key.
    pub fn contains_key(&self, key: &PodKey) -> bool {
        self.0.contains(key)
    }

    /// Adds or replaces a pod. Returns the one it replaces.
    pub fn insert(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        self.0.replace(ByKey(pod)).map(|ByKey(pod)| pod)
    }

    /// Removes and returns the pod with the key.
    pub fn remove(&mut self, key: &PodKey) -> Option<Arc<Pod>> {
        self.0.take(key).map(|ByKey(pod)| pod)
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &PodKey> + ExactSizeIterator + Clone {
        self.values().map(|pod| &pod.key)
    }

    /// The pods, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<Pod>> + ExactSizeIterator + Clone {
        self.0.iter().map(|ByKey(pod)| pod)
    }

    /// Keys and pods, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// The pods whose keys are in a range, in order.
    pub fn range(&self, keys: impl RangeBounds<PodKey>) -> impl Iterator<Item = &Arc<Pod>> {
        self.0.range(keys).map(|ByKey(pod)| pod)
    }

    /// Changes every pod, in the order of the keys they had.
    pub fn edit(&mut self, mut edit: impl FnMut(&mut Pod)) {
        let pods = std::mem::take(&mut self.0).into_iter();
        let edited = pods.map(|ByKey(mut pod)| {
            edit(Arc::make_mut(&mut pod));
            ByKey(pod)
        });
        self.0 = edited.collect();
    }
}

/// Keys and pods of [`Pods`], in order.
#[derive(Clone, Debug)]
pub struct Iter<'a>(btree_set::Iter<'a, ByKey>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a PodKey, &'a Arc<Pod>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|ByKey(pod)| (&pod.key, pod))
    }
}

impl<'a> IntoIterator for &'a Pods {
    type Item = (&'a PodKey, &'a Arc<Pod>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl Index<&PodKey> for Pods {
    type Output = Arc<Pod>;

    #[expect(
        clippy::expect_used,
        reason = "indexing panics, as that of any map does"
    )]
    fn index(&self, key: &PodKey) -> &Arc<Pod> {
        self.get(key).expect("there is a pod with the key")
    }
}

impl Extend<Arc<Pod>> for Pods {
    fn extend<I: IntoIterator<Item = Arc<Pod>>>(&mut self, pods: I) {
        for pod in pods {
            self.insert(pod);
        }
    }
}

impl FromIterator<Arc<Pod>> for Pods {
    fn from_iter<I: IntoIterator<Item = Arc<Pod>>>(pods: I) -> Self {
        Self(pods.into_iter().map(ByKey).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Phase};

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        Arc::new(Pod {
            key: PodKey::new("a", name),
            uid: uid.into(),
            labels: Labels::default(),
            node: None,
            addresses: Vec::new(),
            host_network: false,
            phase: Phase::Running,
            ports: Arc::default(),
            created: None,
            owner: None,
            at: None,
        })
    }

    #[test]
    fn a_pod_with_the_same_key_replaces_the_one_before() {
        let mut pods: Pods = [pod("y", "1"), pod("x", "1")].into_iter().collect();
        let before = pods.clone();
        assert_eq!(pods.insert(pod("x", "2")), Some(pod("x", "1")));
        assert_eq!(pods.len(), 2);
        let uids: Vec<&str> = pods.values().map(|pod| &*pod.uid).collect();
        assert_eq!(uids, ["2", "1"]);
        assert_ne!(pods, before);
        pods.edit(|pod| pod.uid = "1".into());
        assert_eq!(pods, before);
        assert_eq!(pods.remove(&PodKey::new("a", "y")), Some(pod("y", "1")));
        assert!(pods.get(&PodKey::new("a", "y")).is_none());
    }
}
