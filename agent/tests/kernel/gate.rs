// SPDX-License-Identifier: Apache-2.0
//! What closes interfaces before anybody knows them.

use agent::{
    datapath::{Attachment, Closer, Datapath, Hook, Options, Origin, cleanup},
    net::{Guard, Netlink, Netns},
};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::lab::{fresh_root, in_own_namespace, may_run};

const HOOKS: [Hook; 2] = [Hook::FromPod, Hook::ToPod];

/// Names of the programs on the way out of the pod and into it.
fn programs(here: &Netns, attachment: Attachment) -> [Vec<String>; 2] {
    match attachment {
        Attachment::Tcx => [TcAttachType::Ingress, TcAttachType::Egress].map(|side| {
            let (_, programs) = SchedClassifier::query_tcx("pod", side).unwrap();
            let names = programs
                .iter()
                .map(|program| program.name_as_str().unwrap());
            names.map(str::to_owned).collect()
        }),
        Attachment::Clsact => ["ingress", "egress"].map(|side| {
            let shown = here.run(|| {
                std::process::Command::new("tc")
                    .args(["filter", "show", "dev", "pod", side])
                    .output()
            });
            let text = String::from_utf8(shown.unwrap().stdout).unwrap();
            let words: Vec<&str> = text.split_whitespace().collect();
            let names = words.windows(2).filter(|pair| pair[1] == "direct-action");
            names.map(|pair| pair[0].to_owned()).collect()
        }),
    }
}

fn both<const N: usize>(names: [[&str; N]; 2]) -> [Vec<String>; 2] {
    names.map(|names| names.map(str::to_owned).to_vec())
}

/// Runs a test with an interface of which nobody has heard, on both kinds of attachment.
fn with_newcomer(test: impl Fn(&Netns, u32, &Options, Attachment) + Send + Sync) {
    if !may_run() {
        return;
    }
    for attachment in [Attachment::Tcx, Attachment::Clsact] {
        in_own_namespace(|here| {
            let root = fresh_root();
            let options = Options {
                root: root.path.clone(),
                flows: 64,
                attachment: Some(attachment),
                ..Options::default()
            };
            let links = Netlink::open(here).unwrap();
            links.add_veth("pod", "in", here).unwrap();
            let index = links.link_named("pod").unwrap().unwrap().index;
            test(here, index, &options, attachment);
        });
    }
}

#[test]
fn what_a_gate_closes_the_datapath_takes_over_or_opens() {
    with_newcomer(|here, index, options, attachment| {
        let mut datapath = Datapath::open(options).unwrap();
        let mut closer = datapath.closer().unwrap();
        let gate = both([["gate_from_pod"], ["gate_to_pod"]]);
        let ours = both([["from_pod"], ["to_pod"]]);
        let close = |closer: &mut Closer, again| {
            for hook in HOOKS {
                assert!(closer.close(index, hook, again).unwrap());
            }
        };
        let guards = |closer: &Closer| HOOKS.map(|hook| closer.guard(index, hook));
        assert_eq!(guards(&closer), [None; 2]);
        close(&mut closer, false);
        assert_eq!(programs(here, attachment), gate);
        // Filters do not tell whose they are.
        let closed = match attachment {
            Attachment::Tcx => Guard::Gate,
            Attachment::Clsact => Guard::Pod,
        };
        assert_eq!(guards(&closer), [Some(closed); 2]);
        assert!(datapath.held().unwrap().contains(&index));
        // What is closed and waits to be added is nobody's to repair.
        assert_eq!(datapath.maintain().unwrap().repaired, []);
        assert_eq!(programs(here, attachment), gate);

        datapath.add(index, Origin::New).unwrap();
        assert_eq!(programs(here, attachment), ours);
        assert_eq!(guards(&closer), [Some(Guard::Pod); 2]);
        // A gate that comes late changes nothing, unless the interface leads elsewhere by now.
        close(&mut closer, false);
        assert_eq!(programs(here, attachment), ours);
        // What the datapath has put there is its own to repair.
        if attachment == Attachment::Clsact {
            super::updates::tc("filter del dev pod ingress");
            datapath.maintain().unwrap();
            assert_eq!(programs(here, attachment), ours);
        }
        close(&mut closer, true);
        assert_eq!(programs(here, attachment), gate);
        // Forgetting what had the number before opens nothing.
        datapath.forget(index).unwrap();
        assert_eq!(programs(here, attachment), gate);
        datapath.add(index, Origin::New).unwrap();
        assert_eq!(programs(here, attachment), ours);

        datapath.remove(index).unwrap();
        super::updates::wait_until_gone(Hook::FromPod, index);
        super::updates::wait_until_gone(Hook::ToPod, index);
        assert_eq!(programs(here, attachment), both([[], []]));
        assert_eq!(guards(&closer), [None; 2]);
        assert!(!datapath.held().unwrap().contains(&index));
        // An interface that is gone is no error.
        let links = Netlink::open(here).unwrap();
        links.delete_link(index).unwrap();
        assert!(!closer.close(index, Hook::FromPod, false).unwrap());
        closer.forget(index).unwrap();
    });
}

#[test]
fn what_a_gate_closed_stays_closed_when_the_agent_ends() {
    with_newcomer(|here, index, options, attachment| {
        let datapath = Datapath::open(options).unwrap();
        let mut closer = datapath.closer().unwrap();
        for hook in HOOKS {
            assert!(closer.close(index, hook, false).unwrap());
        }
        drop((closer, datapath));
        let are_there = |programs: [Vec<String>; 2]| programs.iter().all(|side| side.len() == 1);
        assert!(are_there(programs(here, attachment)));
        // The next agent finds it, closed, and may open it.
        let mut datapath = Datapath::open(options).unwrap();
        assert!(are_there(programs(here, attachment)));
        assert!(datapath.held().unwrap().contains(&index));
        datapath.remove(index).unwrap();
        super::updates::wait_until_gone(Hook::FromPod, index);
        super::updates::wait_until_gone(Hook::ToPod, index);
        assert_eq!(programs(here, attachment), both([[], []]));
        // Cleaning up takes off what nobody has opened.
        let mut closer = datapath.closer().unwrap();
        for hook in HOOKS {
            assert!(closer.close(index, hook, false).unwrap());
        }
        cleanup(&options.root).unwrap();
        super::updates::wait_until_gone(Hook::FromPod, index);
        super::updates::wait_until_gone(Hook::ToPod, index);
        assert_eq!(programs(here, attachment), both([[], []]));
    });
}
