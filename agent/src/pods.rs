// SPDX-License-Identifier: Apache-2.0
//! Which interfaces of this node belong to which of its pods?
//!
//! The answer does not depend on the network plugin, nor on any name. A pod is known by its UID, a
//! network namespace by its inode, an interface by its index together with the namespace at its other
//! end, checked from both ends. Namespaces are found through the processes that live in them and through
//! the folders where container runtimes pin them; their pods by the control group of a process, else by
//! what the runtime told through the network plugin, if that is there, else by the addresses in the
//! namespace.

mod cgroup;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use policy_compiler::model::Pod;

use crate::{
    cni::claims::{Claim, Claims},
    engine::Interfaces,
    net::{HostLinks, NetError, Netns, PodInterface},
    watch::chain,
};

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The process file system of the node.
    pub proc: PathBuf,
    /// Folders where container runtimes pin network namespaces.
    pub pinned: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            pinned: vec!["/run/netns".into(), "/var/run/docker/netns".into()],
        }
    }
}

/// A network namespace other than the node's own.
struct Sandbox {
    netns: Netns,
    /// UIDs of the pods that processes in the namespace belong to.
    uids: BTreeSet<String>,
    /// A container runtime pins the namespace, as it does before anything runs in it.
    is_pinned: bool,
}

/// Finds the interfaces of `pods`, all of them pods of this node, in the namespace `host` of the node;
/// `claims` is what runtimes told.
///
/// An interface that leads to a namespace of which nobody knows whose it is counts as that of an unknown
/// pod, with two exceptions. One are namespaces that no runtime pins and whose processes are in no pod's
/// control group: what a node's administrator runs in a namespace is not the agent's to close. The other
/// are the node's own ways out, where the node is itself a container (kind, k3d): its default routes, and
/// what carries one of `addresses`, the node's own.
///
/// # Errors
///
/// The node's own namespace cannot be read. What concerns single pods is part of the answer.
pub fn find<'a>(
    places: &Places,
    host: &Netns,
    addresses: &BTreeSet<IpAddr>,
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    claims: &Claims,
) -> Result<Interfaces, NetError> {
    let pods: Vec<&Arc<Pod>> = pods.into_iter().filter(|pod| pod.is_policed()).collect();
    let links = HostLinks::read(host)?;
    let mut found = Interfaces::default();
    let mut foreign = links.uplinks(addresses)?;
    for (inode, sandbox) in sandboxes(places, host).unwrap_or_default() {
        let inside = match links.interfaces_of(&sandbox.netns) {
            Ok(inside) => inside,
            // Namespaces go while we look.
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(inode, error, "network namespace cannot be read");
                continue;
            }
        };
        let outside = inside.iter().filter_map(|inside| inside.outside.as_ref());
        let mut claim = outside.filter_map(|outside| claims.of(outside.index));
        let claim = claim.find(|claim| claim.netns == inode);
        let pod = identify(&pods, &sandbox, claim, &inside).map(|pod| &pod.key);
        let is_known = sandbox.is_pinned || !sandbox.uids.is_empty() || claim.is_some();
        let is_foreign = pod.is_none() && !is_known;
        for interface in inside {
            match (&interface.outside, pod) {
                (Some(outside), None) if is_foreign || foreign.contains(&outside.index) => {
                    foreign.insert(outside.index);
                }
                (Some(outside), pod) => {
                    found.pods.insert(outside.index, pod.cloned());
                }
                (None, Some(pod)) if !interface.addresses.is_empty() => {
                    let name = &interface.inside.name;
                    let why = format!("interface `{name}` has no other end on the node");
                    found.unreachable.insert(pod.clone(), why.into());
                }
                (None, _) => {}
            }
        }
    }
    for (index, link) in links.links() {
        if link.is_pair && link.peer_nsid.is_some() && !foreign.contains(index) {
            let owner = claims
                .of(*index)
                .and_then(|claim| claim.owner(pods.iter().map(|pod| &***pod)));
            found.pods.entry(*index).or_insert_with(|| owner.cloned());
        }
    }
    let controllers = links.links().iter().filter_map(|(index, link)| {
        let controller = link.controller?;
        found.pods.contains_key(index).then_some(controller)
    });
    found.bridges = controllers.collect();
    let others = links.links().iter();
    found.uplinks = others
        .filter(|(index, link)| !link.is_loopback && !found.pods.contains_key(index))
        .map(|(index, _)| *index)
        .collect();
    Ok(found)
}

/// The pod that lives in a namespace: the one its processes agree on, else the one that the runtime told,
/// else the one whose addresses are in it. Processes disagree where a pod that manages other pods enters
/// their namespaces.
fn identify<'a>(
    pods: &[&'a Arc<Pod>],
    sandbox: &Sandbox,
    claim: Option<&Claim>,
    interfaces: &[PodInterface],
) -> Option<&'a Arc<Pod>> {
    let mut by_uid = pods.iter().filter(|pod| sandbox.uids.contains(&*pod.uid));
    if let (Some(pod), None) = (by_uid.next(), by_uid.next()) {
        return Some(pod);
    }
    if let Some(claim) = claim {
        return pods.iter().find(|pod| claim.is(pod)).copied();
    }
    let addresses: BTreeSet<IpAddr> = interfaces
        .iter()
        .flat_map(|interface| interface.addresses.iter().copied())
        .collect();
    // Of two pods that claim one address the newer one has it: the address was free to be given again.
    pods.iter()
        .filter(|pod| {
            !pod.addresses.is_empty()
                && pod
                    .addresses
                    .iter()
                    .all(|address| addresses.contains(address))
        })
        .max_by_key(|pod| (pod.created, &pod.key))
        .copied()
}

/// Every network namespace in use or pinned, by inode, without the node's own.
fn sandboxes(places: &Places, host: &Netns) -> io::Result<BTreeMap<u64, Sandbox>> {
    let own = host.inode()?;
    let mut sandboxes: BTreeMap<u64, Sandbox> = BTreeMap::new();
    for entry in entries(&places.proc) {
        let is_process = entry
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if !is_process {
            continue;
        }
        // A process may end at any of these steps.
        let Some(inode) = namespace_of(&entry) else {
            continue;
        };
        if inode == own {
            continue;
        }
        let uid = fs::read_to_string(entry.join("cgroup"))
            .ok()
            .and_then(|text| cgroup::pod_uid(&text));
        if let Some(known) = sandboxes.get_mut(&inode) {
            known.uids.extend(uid);
        } else if let Some((inode, netns)) = open(&entry.join("ns/net"), own) {
            let uids = uid.into_iter().collect();
            let is_pinned = false;
            let sandbox = Sandbox {
                netns,
                uids,
                is_pinned,
            };
            sandboxes.insert(inode, sandbox);
        }
    }
    for folder in &places.pinned {
        for entry in entries(folder) {
            if let Some((inode, netns)) = open(&entry, own) {
                let sandbox = sandboxes.entry(inode).or_insert_with(|| Sandbox {
                    netns,
                    uids: BTreeSet::new(),
                    is_pinned: true,
                });
                sandbox.is_pinned = true;
            }
        }
    }
    Ok(sandboxes)
}

/// Opens a namespace unless it is `own`. The inode is asked of the open file, which cannot change under
/// us as the path can.
fn open(path: &Path, own: u64) -> Option<(u64, Netns)> {
    let netns = Netns::open(path).ok()?;
    let inode = netns.inode().ok()?;
    (inode != own).then_some((inode, netns))
}

/// The inode in `net:[4026531840]`.
fn namespace_of(process: &Path) -> Option<u64> {
    let link = fs::read_link(process.join("ns/net")).ok()?;
    let text = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
    text.parse().ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}
