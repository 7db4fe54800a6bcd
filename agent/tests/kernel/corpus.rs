// SPDX-License-Identifier: Apache-2.0
//! Do the programs say of every case in `testdata/cases` what the case expects?

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use agent::{
    datapath::{Datapath, Hook, Options, Origin},
    net::Netlink,
};
use policy_compiler::{
    Flow, Snapshot, Verdict,
    cases::{self, Expectation},
    compile::{Scope, compile},
    lower::{Capacity, Reasons, lower},
    manifest,
    model::{Pod, Protocol},
    parse::Settings,
    reach::{Party, Reach},
    reference,
    verdict::Endpoint,
};

use super::{
    frames::{SYN, echo, sctp, tcp, udp},
    lab::{SELF, UPLINK, fresh_root, in_own_namespace, may_run},
};

/// Pods of one node in one case.
const MOST_PODS: usize = 8;

#[test]
fn the_kernel_meets_every_expectation() {
    if !may_run() {
        return;
    }
    in_own_namespace(|here| {
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 4096,
            ..Options::default()
        };
        let mut datapath = Datapath::open(&options).expect("open");
        let links = Netlink::open(here).expect("netlink");
        let interfaces: Vec<u32> = (0..MOST_PODS)
            .map(|i| {
                let name = format!("pod{i}");
                links
                    .add_veth(&name, &format!("in{i}"), here)
                    .expect("veth");
                let index = links.link_named(&name).expect("link").expect("link").index;
                datapath.add(index, Origin::New).expect("add");
                index
            })
            .collect();
        let mut files = Vec::new();
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/cases");
        files_below(&cases, &mut files);
        files.sort();
        let mut lab = Lab {
            datapath,
            interfaces,
            reasons: Reasons::default(),
            judged: 0,
            denied: 0,
        };
        for file in &files {
            lab.case(file);
        }
        assert!(lab.judged > 400, "only {} frames", lab.judged);
        assert!(lab.denied > 150, "only {} denied frames", lab.denied);
    });
}

struct Lab {
    datapath: Datapath,
    interfaces: Vec<u32>,
    reasons: Reasons,
    judged: u16,
    denied: u16,
}

impl Lab {
    fn case(&mut self, file: &Path) {
        let name = file.display().to_string();
        let text = fs::read_to_string(file).unwrap();
        let (documents, _) = manifest::read(&name, &text);
        let document = documents
            .iter()
            .find(|document| &*document.kind == cases::KIND)
            .unwrap();
        let expectation: Expectation = serde_json::from_value(document.value()).unwrap();
        if expectation.skip.contains_key("kernel") || expectation.flows.is_empty() {
            return;
        }
        let files = [(name.as_str(), text.as_str())];
        let mut snapshot = manifest::load(files, &Settings::default()).snapshot;
        expectation.complete(&mut snapshot);
        let nodes: BTreeSet<_> = snapshot
            .pods
            .values()
            .filter_map(|pod| pod.node.clone())
            .collect();
        for node in nodes {
            let policed = |pod: &&Pod| pod.is_policed() && pod.node.as_ref() == Some(&node);
            let pods: Vec<&Pod> = snapshot
                .pods
                .values()
                .map(|pod| &**pod)
                .filter(policed)
                .collect();
            assert!(
                pods.len() <= MOST_PODS,
                "{name}: more interfaces are needed"
            );
            for (index, pod) in self.interfaces.iter().zip(&pods) {
                self.datapath.bind(*index, &pod.key).expect("bind");
            }
            let tables = compile(&snapshot, &Scope::Node(node.clone()));
            let image = lower(&tables, &Capacity::default(), &mut self.reasons).expect("lower");
            self.datapath.publish(&image).expect("publish");
            for expected in &expectation.flows {
                let flow = expected.flow().unwrap();
                let trace = reference::evaluate(&snapshot, &flow);
                assert_eq!(trace.verdict, expected.verdict, "{name}: {flow:?}");
                self.flow(&name, &snapshot, &pods, &flow);
            }
            for (index, _) in self.interfaces.iter().zip(&pods) {
                self.datapath.unbind(*index).expect("unbind");
            }
        }
    }

    /// Sends the flow's first packet through the hook of each end that is one of `pods`.
    fn flow(&mut self, name: &str, snapshot: &Snapshot, pods: &[&Pod], flow: &Flow) {
        let reach = Reach::new(snapshot);
        let source = reach.party(&flow.source, flow.family);
        let destination = reach.party(&flow.destination, flow.family);
        let (Some(from), Some(to)) = (source.address, destination.address) else {
            return; // No packet has such ends.
        };
        if from == to {
            return; // Traffic of a pod to itself does not leave it.
        }
        let owns = |party: &Party<'_>, address| {
            let at = reach.party(&Endpoint::Address(address), flow.family);
            at.pod.map(|pod| &pod.key) == party.pod.map(|pod| &pod.key)
        };
        if !owns(&source, from) || !owns(&destination, to) {
            return; // Its address is another pod's.
        }
        let (from, to) = (from.to_string(), to.to_string());
        // Every flow has a source port of its own, so that none is the answer to another.
        let port = 20_000 + self.judged;
        let frame = match flow.protocol {
            Protocol::Tcp => tcp(&from, port, &to, flow.port, SYN),
            Protocol::Udp => udp(&from, port, &to, flow.port),
            Protocol::Sctp => sctp(&from, port, &to, flow.port),
            Protocol::Other => echo(&from, &to, port, false),
        };
        let trace = reference::evaluate(snapshot, flow);
        let by = match (
            &source.node,
            destination.pod.and_then(|pod| pod.node.as_ref()),
        ) {
            (Some(node), Some(own)) if node == own => SELF,
            _ => UPLINK,
        };
        for (hook, end, by, side) in [
            (Hook::FromPod, &source, SELF, &trace.egress),
            (Hook::ToPod, &destination, by, &trace.ingress),
        ] {
            let position = end
                .pod
                .and_then(|end| pods.iter().position(|pod| pod.key == end.key));
            let Some(position) = position else {
                continue;
            };
            let passed = self
                .datapath
                .test_run(hook, self.interfaces[position], by, &frame);
            let passed = passed.expect("test run");
            self.judged += 1;
            self.denied += u16::from(!passed);
            assert_eq!(
                passed,
                side.verdict == Verdict::Allow,
                "{name}: {hook:?} {flow:?} {side:?}"
            );
        }
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}
