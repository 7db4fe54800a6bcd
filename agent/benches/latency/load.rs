// SPDX-License-Identifier: Apache-2.0
//! What does an agent take of its node, in a large cluster?

use std::{
    env, fs,
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent::{
    args::DatapathArgs, demo::Root, kubernetes, metrics::KindLabel, run::kernel,
    status::writer::Pace, watch,
};
use kube::Config;
use serde_json::json;

use crate::{
    Extent, as_float, background, cluster::Cluster, control_plane::ControlPlane, node::Node,
    report::Report,
};

/// Set for the process that is the agent: where the API server is.
pub(crate) const AGENT: &str = "NETPOL_BENCH_AGENT";

/// Changes a second, and how many at once.
const CHANGES: usize = 100;
const BURST: usize = 10;

/// Measures an agent of its own process.
pub(crate) async fn measure(extent: &Extent, report: &mut Report) {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.node("n1", "192.0.2.41").await;
    for namespace in background::namespaces(extent.pods) {
        cluster.namespace(&namespace, &json!({})).await;
    }
    // One pod in a thousand is the measured node's, so that it has something to enforce.
    let pods = (0..extent.pods).map(|number| {
        let (key, mut pod) = background::pod(number, 0);
        if number.is_multiple_of(1000) {
            pod["spec"]["nodeName"] = json!("n1");
            pod["status"] = json!({"phase": "Pending"});
        }
        (key, pod)
    });
    plane.store(pods);
    let policies = (0..extent.policies).map(|number| background::policy(number, extent.pods));
    plane.store(policies);
    let (pod, policy) = (extent.pods.checked_sub(1), extent.policies.checked_sub(1));
    let pod = pod.map(|last| background::pod(last, 0).0);
    let policy = policy.map(|last| background::policy(last, extent.pods).0);
    for key in pod.iter().chain(&policy) {
        plane.has_read(key).await;
    }

    let started = Instant::now();
    let mut agent = Agent::start(&plane.config_of("admin").cluster_url.to_string());
    agent.wait_until_ready().await;
    let name = format!("{}-pods/{}-policies", extent.pods, extent.policies);
    let took = started.elapsed().as_secs_f64() * 1000.0;
    report.add(&format!("agent/first-tables/{name}"), "ms", took, &[]);
    report.add(
        &format!("agent/peak-before/{name}"),
        "MB",
        agent.peak(),
        &[],
    );

    // What follows the first tables is over, the state on disk for one.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let spent = agent.spent();
    tokio::time::sleep(extent.watched).await;
    let share = (agent.spent() - spent) / extent.watched.as_secs_f64() * 100.0;
    report.add(
        &format!("agent/resident/{name}"),
        "MB",
        agent.resident(),
        &[],
    );
    report.add(&format!("agent/processor/{name}"), "%", share, &[]);

    let spent = agent.spent();
    let begun = Instant::now();
    let mut changed = 0;
    while begun.elapsed() < extent.watched {
        // Labels that policies do not select by, of pods all over the cluster.
        let pods = (changed..changed + BURST).map(|number| {
            let pod = number * 37 % extent.pods;
            background::pod(pod + usize::from(pod.is_multiple_of(1000)), number)
        });
        background::put(&plane, pods);
        changed += BURST;
        let due = begun
            + Duration::from_secs(1) * u32::try_from(changed).unwrap_or(0)
                / u32::try_from(CHANGES).unwrap_or(1);
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let share = (agent.spent() - spent) / took * 100.0;
    report.add(
        &format!("agent/changes/{name}"),
        "per second",
        as_float(changed) / took,
        &[],
    );
    report.add(
        &format!("agent/processor-under-changes/{name}"),
        "%",
        share,
        &[],
    );
    report.add(
        &format!("agent/resident-under-changes/{name}"),
        "MB",
        agent.resident(),
        &[],
    );
    let private = agent.private();
    report.add(&format!("agent/private/{name}"), "MB", private, &[]);
    report.add(&format!("agent/peak/{name}"), "MB", agent.peak(), &[]);
}

/// The kernel's unit in `/proc`, whatever its timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// The agent, as a process.
struct Agent(Child);

impl Agent {
    fn start(url: &str) -> Self {
        let program = env::current_exe().expect("this program");
        let child = Command::new(program)
            .env(AGENT, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("this program runs twice"))
    }

    /// The agent says so in one byte.
    async fn wait_until_ready(&mut self) {
        let mut output = self.0.stdout.take().expect("a pipe");
        let ready = tokio::task::spawn_blocking(move || output.read_exact(&mut [0]));
        ready
            .await
            .expect("no panic")
            .expect("the agent gets ready");
    }

    /// Resident megabytes.
    fn resident(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// Resident megabytes that are no part of a file: without the program's own text.
    fn private(&self) -> f64 {
        self.status("RssAnon:")
    }

    /// The most megabytes that were ever resident.
    fn peak(&self) -> f64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes: f64 = kibibytes.expect("a size").trim().parse().expect("a number");
        kibibytes * 1024.0 / 1_000_000.0
    }

    /// Seconds of processor time.
    fn spent(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        let stat = stat.expect("the agent runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks: f64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<f64>().expect("a number"))
            .sum();
        ticks / TICKS_PER_SECOND
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The end of its input ends the agent.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Is the agent of a cluster of this extent until its input ends.
pub(crate) async fn agent(url: &str, extent: &Extent) {
    let path = format!("/run/netpol-bench-{}", std::process::id());
    let root = Root::claim(path.as_ref()).expect("a folder of one's own");
    let node = Node::new("n1");
    let datapath = DatapathArgs {
        bpffs: root.bpf("n1").expect("a BPF file system"),
        ..DatapathArgs::default()
    };
    let mut access = Config::new(url.parse().expect("a URL"));
    access.accept_invalid_certs = true;
    access.auth_info.token = Some("admin".to_owned().into());
    let client = kubernetes::client(access, Duration::from_mins(2));
    let mut config = node.config();
    // As it is run, not as it is tested.
    config.watch = watch::Settings::default();
    config.pace = Pace::default();
    let client = client.expect("a client");
    let running = kubernetes::start(&config, &client, &node.netns, kernel(&datapath));
    let running = running.expect("an agent");
    // A large cluster takes a while to read.
    let knows = |kind, number| {
        let known = running.metrics.objects.get_or_create(&KindLabel { kind });
        known.get() >= i64::try_from(number).expect("a number of objects")
    };
    let is_behind = || {
        !running.health.unready().is_empty()
            || running.view().borrow().report.is_none()
            || !knows("Pod", extent.pods)
            || !knows("NetworkPolicy", extent.policies)
    };
    while is_behind() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    print!("!");
    std::io::Write::flush(&mut std::io::stdout()).expect("somebody listens");
    let input = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let _ = input.await;
    running.stop().await;
}
