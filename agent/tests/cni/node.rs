// SPDX-License-Identifier: Apache-2.0
//! A node whose pods are made by network plugins.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use agent::{
    args::DatapathArgs,
    cni::{PLUGIN, claims::Claims},
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
        // Plugins are called by the name of their file.
        let state = tempfile::tempdir().unwrap();
        symlink(
            env!("CARGO_BIN_EXE_netpol-agent"),
            state.path().join(PLUGIN),
        )
        .unwrap();
        Some(Self {
            bpffs: root.bpf("n1").unwrap(),
            state,
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
        let namespace = self.sandbox(name);
        let result = self.chain(name, plugins).unwrap_or_else(|e| panic!("{e}"));
        let address = address_in(&result);
        let served = BTreeSet::from([Transport::Tcp(80), Transport::Tcp(81)]);
        self.servers.add(&namespace, address, &served).unwrap();
        self.pods.insert(name.to_owned(), (namespace, address));
    }

    /// Calls `plugins` one after the other to make the interface of pod `shop/name`, as a runtime does.
    /// Returns what the last one made, or what the first one said that failed.
    pub(crate) fn chain(&self, name: &str, plugins: &[Value]) -> Result<Value, Value> {
        let mut result = Value::Null;
        for plugin in plugins {
            let mut config = plugin.clone();
            if !result.is_null() {
                config["prevResult"] = result;
            }
            result = self.call("ADD", name, &config)?;
        }
        Ok(result)
    }

    /// The file of the network namespace of pod `name`.
    pub(crate) fn pinned(&self, name: &str) -> PathBuf {
        self.root.dir(Root::PODS).join(format!("cni-{name}"))
    }

    /// An empty network namespace for pod `name`.
    pub(crate) fn sandbox(&self, name: &str) -> Netns {
        let file = format!("cni-{name}");
        self.root.namespace(Root::PODS, &file).unwrap()
    }

    /// Where the namespaces of pods are.
    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.root.dir(Root::PODS)
    }

    /// Where the node's agent listens for plugins.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.path().join("cni.sock")
    }

    /// The agent as a network plugin that asks the node's agent, with these options.
    pub(crate) fn plugin(&self, options: &Value) -> Value {
        let mut config = json!({"type": PLUGIN, "socket": self.socket()});
        let config_map = config.as_object_mut().unwrap();
        config_map.extend(options.as_object().unwrap().clone());
        config
    }

    /// Takes a pod away as a runtime does: the plugin first, then the namespace.
    pub(crate) fn remove_pod(&mut self, name: &str, plugin: &Value) {
        self.call("DEL", name, plugin)
            .unwrap_or_else(|e| panic!("{e}"));
        self.pods.remove(name).unwrap();
        Netns::remove(&self.root.dir(Root::PODS), &format!("cni-{name}")).unwrap();
    }

    /// Calls one plugin; returns what it writes, as an error if it failed.
    pub(crate) fn call(&self, command: &str, pod: &str, config: &Value) -> Result<Value, Value> {
        let mut config = config.clone();
        config["cniVersion"] = json!("0.4.0");
        config["name"] = json!("pods");
        let kind = config["type"].as_str().unwrap();
        let folder = match kind {
            PLUGIN => Some(self.state.path().to_owned()),
            kind => folder_of(kind),
        };
        let folder = folder.unwrap_or_else(|| panic!("there is no plugin `{kind}`"));
        let pinned = self.pinned(pod);
        let names =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID={pod}");
        let output = self.netns.run(|| {
            let mut plugin = Command::new(folder.join(kind))
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", pod)
                .env("CNI_NETNS", &pinned)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", &folder)
                .env("CNI_ARGS", &names)
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
        let said = serde_json::from_str(&text).unwrap_or(Value::Null);
        if output.status.success() {
            Ok(said)
        } else {
            assert!(said["code"].is_u64(), "{kind} {command}: {text}");
            Err(said)
        }
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
        pods::find(
            &self.places(),
            &self.netns,
            &addresses,
            pods,
            &Claims::default(),
        )
        .unwrap()
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
        enforcer.done.lock().unwrap().recv().unwrap();
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
    done: Mutex<mpsc::Receiver<()>>,
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
        let done = Mutex::new(done);
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

/// The first address in what a plugin made.
pub(crate) fn address_in(result: &Value) -> IpAddr {
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().parse().unwrap()
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
