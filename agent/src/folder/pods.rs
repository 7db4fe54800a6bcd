// SPDX-License-Identifier: Apache-2.0
//! Which interface belongs to which pod of the folder?

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use policy_compiler::{
    Snapshot,
    model::{Pod, PodKey},
};
use tracing::warn;

use super::Options;
use crate::{
    cni::claims::Claims,
    engine::Interfaces,
    net::{HostLinks, Netns},
};

/// The file name of a pod's network namespace. Names of pods and namespaces hold no underscore, so two
/// pods never share a file name.
pub fn pod_file(pod: &PodKey) -> String {
    format!("{}_{}", pod.namespace, pod.name)
}

/// The policed pods of a node.
pub(super) fn local<'a>(
    snapshot: Option<&'a Snapshot>,
    node: &str,
) -> impl Iterator<Item = &'a Pod> {
    let pods = snapshot.into_iter().flat_map(|s| s.pods.values());
    pods.map(|pod| &**pod)
        .filter(move |pod| pod.is_policed() && pod.node.as_deref() == Some(node))
}

/// The interfaces of the node that lead into a namespace of the namespace folder or into one that the
/// folder of manifests names, and those of which a runtime told whose they are. Interfaces that lead
/// elsewhere are no pods' as far as a folder can tell.
pub(super) fn interfaces(
    host: &Netns,
    options: &Options,
    named: &BTreeMap<PodKey, PathBuf>,
    snapshot: Option<&Snapshot>,
    claims: &Claims,
) -> Result<Interfaces> {
    let mut owners: BTreeMap<PathBuf, PodKey> = BTreeMap::new();
    for pod in local(snapshot, &options.node) {
        let default = || options.netns_dir.join(pod_file(&pod.key));
        let path = named.get(&pod.key).cloned().unwrap_or_else(default);
        owners.insert(path, pod.key.clone());
    }

    let links = HostLinks::read(host)?;
    let mut found = Interfaces::default();
    for path in namespace_files(&options.netns_dir, named)? {
        // What is no namespace (yet) has no interfaces; a link event announces them later.
        let Ok(namespace) = Netns::open(&path) else {
            continue;
        };
        if namespace.inode()? == host.inode()? {
            continue;
        }
        let owner = owners.get(&path);
        let inside = match links.interfaces_of(&namespace) {
            Ok(inside) => inside,
            // Pods go while we look.
            Err(error) => {
                let error = anyhow::Error::new(error);
                warn!(path = %path.display(), error = %format!("{error:#}"), "cannot look into a namespace");
                continue;
            }
        };
        let outside: Vec<u32> = inside
            .iter()
            .filter_map(|interface| Some(interface.outside.as_ref()?.index))
            .collect();
        if let (true, false, Some(pod)) = (outside.is_empty(), inside.is_empty(), owner) {
            let names: Vec<_> = inside.iter().map(|i| i.inside.name.as_str()).collect();
            let why = format!("no interface of this node leads to {}", names.join(", "));
            found.unreachable.insert(pod.clone(), why.into());
        }
        found
            .pods
            .extend(outside.into_iter().map(|index| (index, owner.cloned())));
    }
    for (index, claim) in claims.iter() {
        if links.links().contains_key(&index) && !matches!(found.pods.get(&index), Some(Some(_))) {
            let owner = claim.owner(local(snapshot, &options.node));
            found.pods.insert(index, owner.cloned());
        }
    }
    let controllers = links.links().iter().filter_map(|(index, link)| {
        let controller = link.controller?;
        found.pods.contains_key(index).then_some(controller)
    });
    found.bridges = controllers.collect();
    found.uplinks = links
        .links()
        .values()
        .filter(|link| !link.is_loopback && !found.pods.contains_key(&link.index))
        .map(|link| link.index)
        .collect();
    Ok(found)
}

fn namespace_files(dir: &Path, named: &BTreeMap<PodKey, PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let mut files: BTreeSet<PathBuf> = named.values().cloned().collect();
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    });
    files.extend(entries.with_context(|| format!("cannot list `{}`", dir.display()))?);
    Ok(files)
}
