// SPDX-License-Identifier: Apache-2.0
//! How are equal values held once?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policy_compiler::model::{ContainerPort, Labels, Pod};

/// Values in use. A value that only the set itself still holds is forgotten some time later.
#[derive(Debug)]
struct Known<T: ?Sized> {
    known: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Ord> Default for Known<T> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
            sweep_at: 0,
        }
    }
}

impl<T: ?Sized + Ord> Known<T> {
    /// The one copy of `value`, if there is any.
    fn get(&self, value: &T) -> Option<Arc<T>> {
        self.known.get(value).cloned()
    }

    /// The one copy of `value`.
    fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        self.known.insert(value.clone());
        value
    }
}

/// What many objects of a cluster have in common: pods repeat a few thousand strings, and those of a
/// workload their labels and ports.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: Known<str>,
    labels: Known<BTreeMap<Arc<str>, Arc<str>>>,
    ports: Known<[ContainerPort]>,
}

impl Interner {
    /// The one copy of a string.
    pub(super) fn string(&mut self, string: Arc<str>) -> Arc<str> {
        self.strings.share(string)
    }

    /// The same labels, held once.
    pub(super) fn labels(&mut self, labels: &Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels.0) {
            return Labels(known);
        }
        let shared = labels.0.iter().map(|(key, value)| {
            let key = self.strings.share(key.clone());
            (key, self.strings.share(value.clone()))
        });
        let shared: Labels = shared.collect();
        Labels(self.labels.share(shared.0))
    }

    /// Makes a pod hold only what no other object has.
    pub(super) fn pod(&mut self, pod: &mut Pod) {
        pod.labels = self.labels(&pod.labels);
        pod.key.namespace = self.string(pod.key.namespace.clone());
        pod.node = pod.node.take().map(|node| self.string(node));
        pod.owner = pod
            .owner
            .take()
            .map(|(kind, name)| (self.string(kind), self.string(name)));
        pod.addresses.shrink_to_fit();
        pod.ports = self.ports(&pod.ports);
    }

    fn ports(&mut self, ports: &Arc<[ContainerPort]>) -> Arc<[ContainerPort]> {
        if let Some(known) = self.ports.get(ports) {
            return known;
        }
        let shared = ports.iter().map(|port| ContainerPort {
            name: port.name.clone().map(|name| self.strings.share(name)),
            ..port.clone()
        });
        let shared = shared.collect();
        self.ports.share(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_become_one() {
        let mut interner = Interner::default();
        let a = interner.string("web".into());
        let b = interner.string("web".into());
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn unused_strings_are_forgotten() {
        let mut strings: Known<str> = Known::default();
        let kept = strings.share("kept".into());
        for number in 0..100_000 {
            strings.share(format!("hash-{number}").into());
        }
        assert!(strings.known.len() <= 2048, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&kept, &strings.share("kept".into())));
    }

    #[test]
    fn equal_labels_become_one_and_share_strings_with_others() {
        let mut interner = Interner::default();
        let [a, b] = [(), ()].map(|()| interner.labels(&[("app", "web")].into_iter().collect()));
        assert!(Arc::ptr_eq(&a.0, &b.0));
        let other = interner.labels(&[("app", "web"), ("tier", "web")].into_iter().collect());
        let values: Vec<&Arc<str>> = a.0.values().chain(other.0.values()).collect();
        assert!(values.iter().all(|value| Arc::ptr_eq(value, values[0])));
    }
}
