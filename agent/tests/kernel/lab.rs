// SPDX-License-Identifier: Apache-2.0
//! A node without traffic: real programs, real maps, frames by `BPF_PROG_TEST_RUN`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use agent::{
    datapath::{Datapath, Hook, Options, Origin, cleanup},
    net::{Netlink, Netns},
};
use aya::programs::{SchedClassifier, TcAttachType};
use policy_compiler::{
    Snapshot,
    compile::{Scope, compile},
    lower::{Capacity, Image, Reasons, lower},
    manifest::load,
    model::PodKey,
    parse::Settings,
};
use policy_ebpf_common::{abi::Counter, decide::Outcome, flow::Direction};
use rustix::{
    fs::statfs,
    net::{AddressFamily, SocketType, netdevice, socket},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

/// Interface that packets from elsewhere came into the node by.
pub(crate) const UPLINK: u32 = 1;
/// No interface: made by the node itself.
pub(crate) const SELF: u32 = 0;

/// Two nodes' pods; `n1` is the node under test.
const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: red}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: 'y', labels: {team: blue}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: 'fd00:c::1'}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: 'fd00:c::2'}]}}
";

/// Name, node, addresses of the pods; the label `app` is the name.
const PODS: [(&str, &str, &str, &str, &str); 5] = [
    ("x", "a", "n1", "10.0.1.1", "fd00:1::1"),
    ("x", "b", "n2", "10.0.1.2", "fd00:1::2"),
    ("y", "a", "n1", "10.0.2.1", "fd00:2::1"),
    ("y", "b", "n2", "10.0.2.2", "fd00:2::2"),
    ("y", "c", "n1", "10.0.2.3", "fd00:2::3"),
];

/// The node under test.
pub(crate) struct Node {
    pub(crate) datapath: Datapath,
    pub(crate) ifindex: BTreeMap<PodKey, u32>,
    pub(crate) options: Options,
    pub(crate) reasons: Reasons,
}

impl Node {
    /// Compiles the cluster with `policies` and publishes it.
    pub(crate) fn apply(&mut self, policies: &str) {
        let image = self.image(policies);
        self.datapath.publish(&image).expect("publish");
    }

    /// The tables of the cluster with `policies`.
    pub(crate) fn image(&mut self, policies: &str) -> Image {
        let tables = compile(&cluster(policies), &Scope::Node("n1".into()));
        lower(&tables, &Capacity::default(), &mut self.reasons).expect("lower")
    }

    /// What becomes of a frame that the pod sends.
    pub(crate) fn from(&mut self, pod: &str, frame: &[u8]) -> Outcome {
        self.judge(Hook::FromPod, pod, 0, frame)
    }

    /// What becomes of a frame for the pod that came into the node by interface `by`.
    pub(crate) fn to(&mut self, pod: &str, by: u32, frame: &[u8]) -> Outcome {
        self.judge(Hook::ToPod, pod, by, frame)
    }

    fn judge(&mut self, hook: Hook, pod: &str, by: u32, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex[&key(pod)];
        self.judge_on(hook, ifindex, by, frame)
    }

    /// The outcome is the one whose counter went up.
    pub(crate) fn judge_on(&mut self, hook: Hook, ifindex: u32, by: u32, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let passed = self
            .datapath
            .test_run(hook, ifindex, by, frame)
            .expect("test run");
        let after = self.counters();
        let direction = if hook == Hook::FromPod {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let mut changed = after
            .iter()
            .filter(|(key, counter)| counter.packets != before[key].packets)
            .map(|(key, _)| *key);
        let (code, outcome) = changed.next().expect("a counter went up");
        assert_eq!(changed.next(), None, "one outcome per frame");
        assert_eq!(code, direction as u8);
        let audited = self.datapath.config().flags & 1 != 0
            || self
                .datapath
                .endpoint(ifindex)
                .is_some_and(|endpoint| endpoint.entry.flags & 4 != 0);
        if !audited {
            assert_eq!(passed, !outcome.is_drop(), "{outcome:?}");
        }
        outcome
    }

    fn counters(&self) -> BTreeMap<(u8, Outcome), Counter> {
        self.datapath
            .outcome_counters()
            .expect("counters")
            .into_iter()
            .map(|(direction, outcome, counter)| ((direction as u8, outcome), counter))
            .collect()
    }

    /// Programs on a hook of an interface.
    pub(crate) fn programs(hook: Hook, ifindex: u32) -> usize {
        let name = netdevice::index_to_name(
            socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap(),
            ifindex,
        )
        .unwrap();
        let side = if hook == Hook::FromPod {
            TcAttachType::Ingress
        } else {
            TcAttachType::Egress
        };
        let (_, programs) = SchedClassifier::query_tcx(&name, side).unwrap();
        programs.len()
    }

    /// What an agent that starts afterwards finds.
    pub(crate) fn restart(&mut self) {
        self.datapath = Datapath::open(&self.options).expect("open");
    }
}

/// Runs a test with the pods of `n1` bound, and nothing published.
pub(crate) fn with_node(test: impl FnOnce(&mut Node) + Send) {
    if !may_run() {
        return;
    }
    in_own_namespace(|here| {
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 1024,
            ..Options::default()
        };
        let mut datapath = Datapath::open(&options).expect("open");
        let links = Netlink::open(here).expect("netlink");
        let mut ifindex = BTreeMap::new();
        for (i, pod) in local_pods().into_iter().enumerate() {
            let name = format!("pod{i}");
            links
                .add_veth(&name, &format!("in{i}"), here)
                .expect("veth");
            let index = links.link_named(&name).expect("link").expect("link").index;
            datapath.add(index, Origin::New).expect("add");
            datapath.bind(index, &pod).expect("bind");
            ifindex.insert(pod, index);
        }
        let mut node = Node {
            datapath,
            ifindex,
            options,
            reasons: Reasons::default(),
        };
        test(&mut node);
    });
}

/// Runs `test` on a thread in a network namespace that is gone afterwards.
pub(crate) fn in_own_namespace(test: impl FnOnce(&Netns) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread's network namespace changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare");
            test(&Netns::current().expect("namespace"));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A bpffs folder that goes away with the value.
pub(crate) struct Root {
    pub(crate) path: PathBuf,
}

pub(crate) fn fresh_root() -> Root {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Root {
        path: format!("/sys/fs/bpf/netpol-test-{}-{number}", process::id()).into(),
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let cleaned = cleanup(&self.path).map_err(io::Error::other);
        let removed = cleaned.and_then(|()| fs::remove_dir(&self.path));
        if !std::thread::panicking() {
            removed.expect("cleanup");
        }
    }
}

/// Whether the kernel can be used. Where it must be, it is an error if it cannot.
pub(crate) fn may_run() -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let bpffs = Path::new("/sys/fs/bpf");
    let mounted = statfs(bpffs).is_ok_and(|stat| stat.f_type == BPF_FS_MAGIC);
    let able = geteuid().is_root() && mounted;
    if !able {
        eprintln!("skipped: needs root and a bpffs on {}", bpffs.display());
        assert!(
            env::var_os("CI").is_none(),
            "kernel tests must run where CI is set"
        );
    }
    able
}

pub(crate) fn key(pod: &str) -> PodKey {
    let (namespace, name) = pod.split_once('/').expect("namespace/name");
    PodKey::new(namespace, name)
}

fn local_pods() -> Vec<PodKey> {
    PODS.iter()
        .filter(|(_, _, node, _, _)| *node == "n1")
        .map(|(namespace, name, ..)| PodKey::new(namespace, name))
        .collect()
}

pub(crate) fn cluster(policies: &str) -> Snapshot {
    let mut text = CLUSTER.to_owned();
    for (namespace, name, node, four, six) in PODS {
        write!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: '{namespace}', \
             labels: {{app: {name}}}}}, spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}, \
             status: {{phase: Running, podIPs: [{{ip: {four}}}, {{ip: '{six}'}}]}}}}\n"
        )
        .unwrap();
    }
    let files = [("cluster.yaml", text.as_str()), ("policies.yaml", policies)];
    let loaded = load(files, &Settings::default());
    for diagnostic in &loaded.diagnostics {
        assert_ne!(
            diagnostic.severity,
            policy_compiler::diagnostic::Severity::Error,
            "{diagnostic:?}"
        );
    }
    loaded.snapshot
}
