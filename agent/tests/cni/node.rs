// SPDX-License-Identifier: Apache-2.0
//! A node whose pods are made by network plugins.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use agent::{
    args::DatapathArgs,
    demo::{
        Root,
        plan::{Probe, Transport},
        probe::{Measured, PATIENCE, measure},
        servers::Servers,
    },
    engine::{Engine, Interfaces, Settings},
    folder,
    net::{Netlink, Netns},
    pods::{self, Places},
    run::kernel,
};
use policy_compiler::{
    Snapshot,
    model::{Pod, PodKey},
};
use serde_json::{Value, json};

/// Address of the node on the network between nodes.
pub(crate) const NODE: &str = "192.0.2.41";

/// Namespaces, plugins' state and maps of one node; everything goes with it.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    servers: Servers,
    enforcer: Option<Enforcer>,
    pods: BTreeMap<String, (Netns, IpAddr)>,
    state: tempfile::TempDir,
    bpffs: PathBuf,
    root: Root,
}

impl Node {
    /// A node with no pods. `None` if there are no plugins on this machine, which is an error in CI.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if folder_of("ptp").is_none() {
            assert!(
                env::var_os("CI").is_none(),
                "no network plugins: run `.ci/setup network`"
            );
            println!("skipped: no network plugins, run `.ci/setup network` or set CNI_PATH");
            return None;
        }
        let path = format!("/run/netpol-cni-{}-{name}", std::process::id());
        let root = Root::claim(&PathBuf::from(path)).unwrap();
        let netns = root.namespace(Root::NODES, "n1").unwrap();
        // Before any plugin: it is the first interface for which this matters.
        netns.set_sysctl("ipv4/ip_forward", "1").unwrap();
        let links = Netlink::open(&netns).unwrap();
        let lo = links.link_named("lo").unwrap().unwrap().index;
        links.set_up(lo).unwrap();
        links
            .add_address(lo, format!("{NODE}/32").parse().unwrap())
            .unwrap();
        Some(Self {
            bpffs: root.bpf("n1").unwrap(),
            state: tempfile::tempdir().unwrap(),
            servers: Servers::start().unwrap(),
            pods: BTreeMap::new(),
            enforcer: None,
            netns,
            root,
        })
    }

    /// Where the node's agent looks: no process lives in the pods of these tests.
    pub(crate) fn places(&self) -> Places {
        Places {
            proc: self.state.path().join("proc"),
            pinned: vec![self.root.dir(Root::PODS)],
        }
    }

    /// Where the node's agent keeps the last policies.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.state.path().join("bundle")
    }

    /// A namespace outside of the node.
    pub(crate) fn outside(&self, name: &str) -> Netns {
        self.root.namespace(Root::OUTSIDE, name).unwrap()
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.bpffs.clone()
    }

    /// Makes pod `shop/name` with `plugins`, one after the other as a runtime does, and answers TCP port
    /// 80 in it.
    pub(crate) fn add_pod(&mut self, name: &str, plugins: &[Value]) {
        let namespace = self
            .root
            .namespace(Root::PODS, &format!("cni-{name}"))
            .unwrap();
        let mut result = Value::Null;
        for plugin in plugins {
            let mut config = plugin.clone();
            config["cniVersion"] = json!("0.4.0");
            config["name"] = json!("pods");
            if !result.is_null() {
                config["prevResult"] = result;
            }
            result = self.call("ADD", name, &config);
        }
        let address = result["ips"][0]["address"].as_str().unwrap();
        let address: IpAddr = address.split('/').next().unwrap().parse().unwrap();
        let served = BTreeSet::from([Transport::Tcp(80), Transport::Tcp(81)]);
        self.servers.add(&namespace, address, &served).unwrap();
        self.pods.insert(name.to_owned(), (namespace, address));
    }

    /// Takes a pod away as a runtime does: the plugin first, then the namespace.
    pub(crate) fn remove_pod(&mut self, name: &str, plugin: &Value) {
        let mut config = plugin.clone();
        config["cniVersion"] = json!("0.4.0");
        config["name"] = json!("pods");
        self.call("DEL", name, &config);
        self.pods.remove(name).unwrap();
        Netns::remove(&self.root.dir(Root::PODS), &format!("cni-{name}")).unwrap();
    }

    fn call(&self, command: &str, pod: &str, config: &Value) -> Value {
        let kind = config["type"].as_str().unwrap();
        let folder = folder_of(kind).unwrap_or_else(|| panic!("there is no plugin `{kind}`"));
        let pinned = self.root.dir(Root::PODS).join(format!("cni-{pod}"));
        let output = self.netns.run(|| {
            let mut plugin = Command::new(folder.join(kind))
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", pod)
                .env("CNI_NETNS", &pinned)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", &folder)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut input = plugin.stdin.take().unwrap();
            input.write_all(config.to_string().as_bytes())?;
            drop(input);
            plugin.wait_with_output()
        });
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{kind} {command}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Addresses from a block, and a default route, as most plugins are told to give them.
    pub(crate) fn ipam(&self, block: &str) -> Value {
        json!({
            "type": "host-local",
            "dataDir": self.state.path().join("addresses"),
            "ranges": [[{"subnet": block}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        })
    }

    /// What the API server says: the node, its pods, and `policies`.
    pub(crate) fn snapshot(&self, policies: &str) -> Snapshot {
        let mut text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n\
             status: {{addresses: [{{type: InternalIP, address: {NODE}}}]}}\n---\n\
             apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n"
        );
        for (name, (_, address)) in &self.pods {
            let pod = format!(
                "apiVersion: v1\nkind: Pod\n\
                 metadata: {{namespace: shop, name: {name}, uid: {name}, labels: {{app: {name}}}}}\n\
                 spec: {{nodeName: n1, containers: [{{name: c, image: x}}]}}\n\
                 status: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n---\n"
            );
            text.push_str(&pod);
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), text + policies).unwrap();
        folder::load(folder.path()).unwrap().snapshot
    }

    /// Which interfaces the agent finds, with the names of the pods behind them.
    pub(crate) fn find(&self, addresses: &[&str]) -> Interfaces {
        let snapshot = self.snapshot("");
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let pods: Vec<&Arc<Pod>> = snapshot.pods.values().collect();
        pods::find(&self.places(), &self.netns, &addresses, pods).unwrap()
    }

    /// Puts `policies` in force.
    pub(crate) fn enforce(&mut self, policies: &str) {
        let wish = (self.snapshot(policies), self.find(&[NODE]));
        let enforcer = self.enforcer.get_or_insert_with(|| {
            let datapath = DatapathArgs {
                bpffs: self.bpffs.clone(),
                events_per_second: 0,
                ..DatapathArgs::default()
            };
            Enforcer::start(&self.netns, &datapath)
        });
        enforcer.wishes.send(wish).unwrap();
        enforcer.done.recv().unwrap();
    }

    /// The namespace of a pod.
    pub(crate) fn pod(&self, name: &str) -> &Netns {
        &self.pods[name].0
    }

    /// The address of a pod.
    pub(crate) fn address(&self, name: &str) -> IpAddr {
        self.pods[name].1
    }
}

/// An engine on a thread of its own in the node's namespace, which ends with its sender.
struct Enforcer {
    wishes: mpsc::Sender<(Snapshot, Interfaces)>,
    done: mpsc::Receiver<()>,
}

impl Enforcer {
    fn start(netns: &Netns, datapath: &DatapathArgs) -> Self {
        let (wishes, wished) = mpsc::channel::<(Snapshot, Interfaces)>();
        let (finished, done) = mpsc::channel();
        let (netns, kernel) = (netns.clone(), kernel(datapath));
        thread::spawn(move || {
            netns.enter().unwrap();
            let mut engine = Engine::new("n1", Settings::default(), kernel().unwrap());
            for (snapshot, interfaces) in wished {
                engine.set_interfaces(interfaces).unwrap();
                engine.apply(snapshot).unwrap();
                finished.send(()).unwrap();
            }
        });
        Self { wishes, done }
    }
}

/// Whether TCP `port` of `to` answers somebody in `from`.
#[track_caller]
pub(crate) fn answers(from: &Netns, to: IpAddr, port: u16) -> bool {
    let any: IpAddr = [0, 0, 0, 0].into();
    let probe = Probe {
        source: 0,
        destination: 1,
        from: any,
        to,
        transport: Transport::Tcp(port),
    };
    match &measure(from, &[probe], &PATIENCE).unwrap()[0] {
        Measured::Allow => true,
        Measured::Deny => false,
        Measured::Broken(why) => panic!("the probe to {to} port {port} failed: {why}"),
    }
}

/// Whether TCP `port` of `to` comes to answer somebody in `from`: a busy machine may be late.
#[track_caller]
pub(crate) fn comes_to_answer(from: &Netns, to: IpAddr, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if answers(from, to, port) {
            return true;
        }
    }
    false
}

/// The folder that has the plugin called `name`.
fn folder_of(name: &str) -> Option<PathBuf> {
    let told = env::var_os("CNI_PATH").unwrap_or_default();
    let usual = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    env::split_paths(&told)
        .chain(usual)
        .find(|folder| folder.join(name).is_file())
}

/// `shop/NAME`.
pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("shop", name)
}
