// SPDX-License-Identifier: Apache-2.0
//! A node with pods made of network namespaces, and an agent on it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use agent::{
    engine::{Age, Call, Datapath, Desired, Recording, Settings},
    kubernetes::{self, Config, Running},
    net::{Netlink, Netns},
    pods::Places,
    status::writer::Pace,
    watch,
};
use ipnet::IpNet;
use kube::Client;
use policy_compiler::{lower::Image, model::PodKey, snapshot::Options};
use tempfile::TempDir;

use crate::cluster::eventually;

/// A network namespace that stands for a node, with a folder for everything an agent keeps.
pub(crate) struct Node {
    pub(crate) name: String,
    dir: TempDir,
    pub(crate) netns: Netns,
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let netns = Netns::create(&dir.path().join("nodes"), name).unwrap();
        let node = Self {
            name: name.to_owned(),
            dir,
            netns,
        };
        fs::create_dir(node.pods()).unwrap();
        fs::create_dir(node.dir.path().join("proc")).unwrap();
        node
    }

    /// Gives a pod a network namespace with one interface that has `address`, as a network plugin does:
    /// the namespace is pinned under a name that says nothing.
    pub(crate) fn add_pod(&self, pinned_as: &str, address: &str) -> Netns {
        blocking(|| self.build_pod(pinned_as, address))
    }

    fn build_pod(&self, pinned_as: &str, address: &str) -> Netns {
        let netns = Netns::create(&self.pods(), pinned_as).unwrap();
        let links = Netlink::open(&self.netns).unwrap();
        links
            .add_veth(&format!("v{pinned_as}"), "eth0", &netns)
            .unwrap();
        let inside = Netlink::open(&netns).unwrap();
        let eth0 = inside.link_named("eth0").unwrap().unwrap();
        let address: IpNet = address.parse().unwrap();
        inside.add_address(eth0.index, address).unwrap();
        inside.set_up(eth0.index).unwrap();
        let outside = links.link_named(&format!("v{pinned_as}")).unwrap().unwrap();
        links.set_up(outside.index).unwrap();
        netns
    }

    pub(crate) fn remove_pod(&self, pinned_as: &str) {
        blocking(|| {
            let links = Netlink::open(&self.netns).unwrap();
            if let Some(link) = links.link_named(&format!("v{pinned_as}")).unwrap() {
                links.delete_link(link.index).unwrap();
            }
            Netns::remove(&self.pods(), pinned_as).unwrap();
        });
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            node: self.name.clone(),
            addresses: Vec::new(),
            namespace: "netpol-system".to_owned(),
            bundle: Some(self.dir.path().join("state")),
            names: Some(self.dir.path().join("run")),
            listen: None,
            debug_socket: None,
            cni_socket: None,
            places: Places {
                proc: self.dir.path().join("proc"),
                pinned: vec![self.pods()],
            },
            watch: watch::Settings {
                discovery: Duration::from_millis(200),
                backoff_max: Duration::from_millis(500),
                ..watch::Settings::default()
            },
            options: Options::default(),
            settings: Settings::default(),
            pace: Pace {
                report: Duration::from_millis(50),
                conditions: Duration::from_millis(100),
                survey: Duration::from_millis(200),
            },
            lease: Duration::from_secs(3),
        }
    }

    /// Starts an agent that enforces nothing but remembers what it would.
    pub(crate) fn start(&self, client: &Client) -> (Running, Told) {
        self.start_with(&self.config(), client)
    }

    pub(crate) fn start_with(&self, config: &Config, client: &Client) -> (Running, Told) {
        let told = Told::default();
        let datapath = told.clone();
        let running = kubernetes::start(config, client, &self.netns, || Ok(datapath)).unwrap();
        (running, told)
    }

    /// A file of the node.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the namespaces of pods are pinned.
    pub(crate) fn pods(&self) -> PathBuf {
        self.dir.path().join("pods")
    }
}

/// Waits until the agent says that it is ready.
pub(crate) async fn ready(running: &Running) {
    eventually("ready", async || {
        running.health.unready().is_empty().then_some(())
    })
    .await;
}

/// Waits until the agent knows so many policies.
pub(crate) async fn knows(running: &Running, policies: usize) {
    let view = running.view();
    eventually(&format!("{policies} policies known"), async || {
        (view.borrow().policies.len() == policies).then_some(())
    })
    .await;
}

/// Runs what must not run on a thread of an asynchronous runtime.
pub(crate) fn blocking<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(action).join().unwrap())
}

impl Drop for Node {
    fn drop(&mut self) {
        remove_all(&self.pods());
        remove_all(&self.dir.path().join("nodes"));
    }
}

fn remove_all(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = Netns::remove(folder, &entry.file_name().to_string_lossy());
    }
}

/// What a datapath was told, for the test to look at while the agent runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Recording>>);

impl Told {
    /// All tables told so far.
    pub(crate) fn images(&self) -> Vec<Image> {
        let recording = self.0.lock().unwrap();
        let calls = recording.calls.iter();
        calls
            .filter_map(|call| match call {
                Call::Publish { image, .. } => Some((**image).clone()),
                Call::Attach(..) | Call::Detach(_) => None,
            })
            .collect()
    }

    /// The tables told last.
    pub(crate) fn image(&self) -> Option<Image> {
        let recording = self.0.lock().unwrap();
        recording.calls.iter().rev().find_map(|call| match call {
            Call::Publish { image, .. } => Some((**image).clone()),
            _ => None,
        })
    }

    /// Interfaces attached to and not detached from.
    pub(crate) fn attached(&self) -> Vec<u32> {
        let mut attached = Vec::new();
        for call in &self.0.lock().unwrap().calls {
            match call {
                Call::Attach(index, ..) => attached.push(*index),
                Call::Detach(index) => attached.retain(|other| other != index),
                Call::Publish { .. } => {}
            }
        }
        attached
    }

    /// The pods that the tables told last are for.
    pub(crate) fn pods(&self) -> Vec<String> {
        let image = self.image();
        let pods = image.iter().flat_map(|image| image.endpoints.keys());
        pods.map(PodKey::to_string).collect()
    }

    /// The pods that were told to have an interface.
    pub(crate) fn bound(&self) -> Vec<String> {
        let recording = self.0.lock().unwrap();
        let last = recording.calls.iter().rev().find_map(|call| match call {
            Call::Publish { pods, .. } => Some(pods.clone()),
            _ => None,
        });
        last.iter()
            .flatten()
            .map(|(_, pod)| pod.to_string())
            .collect()
    }

    /// Number of publications.
    pub(crate) fn publications(&self) -> usize {
        let recording = self.0.lock().unwrap();
        let calls = recording.calls.iter();
        calls
            .filter(|call| matches!(call, Call::Publish { .. }))
            .count()
    }

    /// Lets publishing fail from now on, or succeed again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.0.lock().unwrap().refuse = refuse;
    }
}

impl Datapath for Told {
    fn attach(&mut self, ifindex: u32, age: Age) -> anyhow::Result<()> {
        self.0.lock().unwrap().attach(ifindex, age)
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.0.lock().unwrap().detach(ifindex)
    }

    fn publish(&mut self, desired: &Desired<'_>) -> anyhow::Result<()> {
        self.0.lock().unwrap().publish(desired)
    }
}
