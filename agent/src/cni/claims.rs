// SPDX-License-Identifier: Apache-2.0
//! Whose interfaces are, as runtimes told through the network plugin, and who waits for them?
//!
//! A runtime has the plugins make a pod's interface before any process lives in the pod and before the
//! API server knows the pod's addresses: nothing on the node tells yet whose the interface is, except the
//! runtime itself. What it says is believed until a process shows whose it is, and forgotten with the
//! interface.

use std::{collections::BTreeMap, sync::mpsc, time::Instant};

use policy_compiler::model::{Pod, PodKey};

use super::spec::Wait;
use crate::engine::{Datapath, Engine, Interfaces};

/// The pod that an interface is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its namespace and name.
    pub pod: PodKey,
    /// Its UID; empty if the runtime did not tell.
    pub uid: String,
    /// Inode of its network namespace.
    pub netns: u64,
}

impl Claim {
    /// Whether `pod` is meant, and not one that had its name before it or will have it after it.
    pub fn is(&self, pod: &Pod) -> bool {
        // What a kubelet gives a pod from a file is a hash without dashes; the API server has another.
        let tells = self.uid.contains('-') && !pod.uid.is_empty();
        pod.key == self.pod && (!tells || *self.uid == *pod.uid)
    }

    /// The pod among `pods`, the policed pods of the node.
    pub fn owner<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> Option<&'a PodKey> {
        let mut pods = pods.into_iter();
        pods.find(|pod| self.is(pod)).map(|pod| &pod.key)
    }
}

/// A plugin that waits for an interface.
#[derive(Debug)]
pub struct Hold {
    /// The node's end of the interface.
    pub ifindex: u32,
    /// The bridge that this end is a port of.
    pub controller: Option<u32>,
    /// Whose it is.
    pub claim: Claim,
    /// What is waited for.
    pub wait: Wait,
    /// When nobody waits any more.
    pub until: Instant,
    /// Takes the answer.
    pub answer: mpsc::Sender<Progress>,
}

/// What an interface has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing passes, but for what finds neighbours. Told where that is all that is waited for, or all
    /// that can be had: whether there are policies for the pod cannot be known.
    Closed,
    /// The pod's policies decide what passes.
    Programmed,
}

/// What is known from runtimes.
#[derive(Debug, Default)]
pub struct Claims {
    told: BTreeMap<u32, Claim>,
    waiting: Vec<Hold>,
}

impl Claims {
    /// Notes a claim, and that somebody waits. `interfaces` is what is known of the node's interfaces,
    /// `pods` are its policed pods.
    pub fn note<'a>(
        &mut self,
        hold: Hold,
        interfaces: &mut Interfaces,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) {
        interfaces.uplinks.remove(&hold.ifindex);
        interfaces.bridges.extend(hold.controller);
        let owner = hold.claim.owner(pods).cloned();
        interfaces.pods.insert(hold.ifindex, owner);
        self.told.insert(hold.ifindex, hold.claim.clone());
        self.waiting.push(hold);
    }

    /// What was told of an interface.
    pub fn of(&self, ifindex: u32) -> Option<&Claim> {
        self.told.get(&ifindex)
    }

    /// What was told, by interface.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Claim)> {
        self.told.iter().map(|(ifindex, claim)| (*ifindex, claim))
    }

    /// Forgets an interface that is gone: its number may come back.
    pub fn forget(&mut self, ifindex: u32) {
        self.told.remove(&ifindex);
    }

    /// Tells those who wait what has been reached. `is_deaf` says that pods may exist of which the agent
    /// cannot hear.
    pub fn answer<D: Datapath>(&mut self, engine: &Engine<D>, is_deaf: bool) {
        let now = Instant::now();
        self.waiting.retain(|hold| {
            let (ifindex, claim) = (hold.ifindex, &hold.claim);
            let is_enough = is_deaf || hold.wait == Wait::Closed;
            let reached = if engine.judges(ifindex, |pod| claim.is(pod)) {
                Progress::Programmed
            } else if engine.holds(ifindex) && is_enough {
                Progress::Closed
            } else {
                return hold.until > now;
            };
            // Who asked may have gone.
            let _ = hold.answer.send(reached);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: shop, name: {name}, uid: '{uid}'}}\n\
             spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}\n"
        );
        let files = [("pod.yaml", text.as_str())];
        let loaded =
            policy_compiler::manifest::load(files, &policy_compiler::parse::Settings::default());
        loaded.snapshot.pods.values().next().unwrap().clone()
    }

    fn claim(name: &str, uid: &str) -> Claim {
        Claim {
            pod: PodKey::new("shop", name),
            uid: uid.to_owned(),
            netns: 1,
        }
    }

    #[test]
    fn a_namesake_is_another_pod() {
        let (old, new) = ("aaaa-1", "bbbb-2");
        assert!(claim("web", new).is(&pod("web", new)));
        assert!(!claim("web", new).is(&pod("web", old)));
        assert!(!claim("api", new).is(&pod("web", new)));
    }

    #[test]
    fn where_no_uid_is_told_the_name_decides() {
        assert!(claim("web", "").is(&pod("web", "aaaa-1")));
        assert!(claim("web", "aaaa-1").is(&pod("web", "")));
        let of_a_file = "0123456789abcdef0123456789abcdef";
        assert!(claim("web", of_a_file).is(&pod("web", "aaaa-1")));
    }

    #[test]
    fn an_interface_is_nobodys_until_its_pod_is_known() {
        let (answer, _asked) = mpsc::channel();
        let hold = || Hold {
            ifindex: 7,
            controller: Some(3),
            claim: claim("web", "bbbb-2"),
            wait: Wait::Programmed,
            until: Instant::now(),
            answer: answer.clone(),
        };
        let mut claims = Claims::default();
        let mut interfaces = Interfaces::default();
        interfaces.uplinks.extend([3, 7]);
        claims.note(hold(), &mut interfaces, [&*pod("web", "aaaa-1")]);
        assert_eq!(interfaces.pods[&7], None);
        assert!(!interfaces.uplinks.contains(&7) && interfaces.bridges.contains(&3));
        claims.note(hold(), &mut interfaces, [&*pod("web", "bbbb-2")]);
        assert_eq!(interfaces.pods[&7], Some(PodKey::new("shop", "web")));
        assert!(claims.of(7).is_some());
        claims.forget(7);
        assert_eq!(claims.iter().count(), 0);
    }
}
