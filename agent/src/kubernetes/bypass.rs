// SPDX-License-Identifier: Apache-2.0
//! Do packets get past our programs on this node?
//!
//! A datapath that redirects packets straight into a pod's namespace, or takes them before ours sees
//! them, leaves the tables in force and without effect. An agent that said it was ready there would lie.

use std::collections::BTreeMap;

use crate::net::Link;

/// Interfaces that only such datapaths make.
const MARKS: [(&str, &str); 2] = [
    ("cilium_host", "Cilium"),
    ("bpfin.cali", "Calico's eBPF dataplane"),
];

/// Why policies may not hold on this node; `None` if nothing speaks against them.
///
/// `links` are the interfaces of the node, `ahead` the programs of others in front of ours.
pub(super) fn find(links: &BTreeMap<u32, Link>, ahead: &[(u32, String)]) -> Option<String> {
    let marked = MARKS.iter().find(|(mark, _)| {
        let mut names = links.values().map(|link| link.name.as_str());
        names.any(|name| name == *mark)
    });
    if let Some((mark, who)) = marked {
        return Some(format!(
            "interface `{mark}` shows that {who} delivers packets past the agent's programs"
        ));
    }
    let (ifindex, program) = ahead.first()?;
    Some(format!(
        "program `{program}` runs ahead of the agent's on interface {ifindex}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(names: &[&str]) -> BTreeMap<u32, Link> {
        let link = |(index, name): (u32, &&str)| Link {
            index,
            name: (*name).to_owned(),
            peer: None,
            peer_nsid: None,
            is_pair: false,
            is_loopback: false,
            is_up: true,
            controller: None,
        };
        (1..)
            .zip(names)
            .map(link)
            .map(|link| (link.index, link))
            .collect()
    }

    #[test]
    fn usual_nodes_have_nothing_to_report() {
        assert_eq!(
            find(&links(&["lo", "eth0", "cni0", "veth12", "cali12"]), &[]),
            None
        );
    }

    #[test]
    fn datapaths_that_redirect_are_known_by_their_devices() {
        let why = find(&links(&["lo", "cilium_host"]), &[]).unwrap();
        assert!(why.contains("Cilium"), "{why}");
        let why = find(&links(&["lo", "bpfin.cali"]), &[]).unwrap();
        assert!(why.contains("Calico"), "{why}");
    }

    #[test]
    fn whoever_comes_first_is_named() {
        let why = find(&links(&["lo"]), &[(7, "taker".to_owned())]).unwrap();
        assert!(why.contains("`taker`") && why.contains('7'), "{why}");
    }
}
