// SPDX-License-Identifier: Apache-2.0
//! What becomes of a configuration that is edited while the agent runs? With the program as it is shipped.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use agent::{demo::Root, net::Netlink};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    cluster::{Cluster, eventually},
    control_plane::ControlPlane,
    node::{Node, blocking},
    proxy::Proxy,
};

/// Where the agent answers probes, in its own network namespace.
const PORT: u16 = 9469;
/// The loopback device's number.
const LOOPBACK: u32 = 1;

#[tokio::test]
async fn an_edited_configuration_takes_effect() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    cluster
        .apply(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "no-way-out"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
        }))
        .await;
    let node = Node::new("n1");
    node.add_pod("s1", "10.1.0.1/32");
    let program = Program::start(&node, &plane);
    let _proxy = program.connect(&plane);
    program.is_ready().await;
    program.decides("deny").await;

    program.edit("# comments are nobody's business\nlocal-node-egress: allow\n");
    program.decides("allow").await;

    // What cannot change at run time is named, and does not.
    program.edit("local-node-egress: enforce\nattach: clsact\nlog: debug\n");
    program.decides("deny").await;
    program
        .says("`attach` takes effect when the agent starts again")
        .await;
    program
        .says("`log` takes effect when the agent starts again")
        .await;
    assert_eq!(program.readiness(), "HTTP/1.1 200 OK");

    // A mistake is told with its place, and nothing of the file takes effect.
    for (mistake, problem) in [
        (
            "local-node-egress: perhaps",
            "`local-node-egress`: invalid value 'perhaps'",
        ),
        ("egress: allow", "there is no flag named `egress`"),
        ("log: debug: info", "mapping values are not allowed"),
    ] {
        program.edit(&format!(
            "service-cidr: [10.96.0.0/12]\n# by hand\n{mistake}\nnode: n1\n"
        ));
        let line = program.says(problem).await;
        let place = format!("{}:3:", program.config().display());
        assert!(line.contains(&place), "`{place}` is not in {line}");
        assert!(line.contains("the settings in force stay"), "{line}");
    }
    assert_eq!(program.decision(), "deny");
    assert_eq!(program.readiness(), "HTTP/1.1 200 OK");

    // What was wrong once is forgotten with the next file.
    program.edit("local-node-egress: allow\n");
    program.decides("allow").await;
}

/// The agent as a process, in the network namespace of a node.
struct Program<'n> {
    node: &'n Node,
    _root: Root,
    bpffs: PathBuf,
    dir: tempfile::TempDir,
    child: Child,
}

impl<'n> Program<'n> {
    fn start(node: &'n Node, plane: &ControlPlane) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = format!("/run/netpol-reload-{}", std::process::id());
        let root = Root::claim(Path::new(&root)).unwrap();
        let bpffs = root.bpf("n1").unwrap();
        let path = |name: &str| dir.path().join(name).into_os_string();
        fs::write(path("config.yaml"), "log: info\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpol-agent"));
        command
            .args(["run", "--node=n1", "--log-format=text", "--config"])
            .arg(path("config.yaml"))
            .arg("--kubeconfig")
            .arg(plane.kubeconfig("admin"))
            .arg("--netns-dir")
            .arg(node.pods())
            .arg("--bpffs")
            .arg(&bpffs)
            .arg("--state-dir")
            .arg(path("run"))
            .arg("--bundle-dir")
            .arg(path("state"))
            .arg("--debug-socket")
            .arg(path("debug.sock"))
            .arg(format!("--listen=127.0.0.1:{PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).unwrap());
        blocking(|| {
            Netlink::open(&node.netns)
                .unwrap()
                .set_up(LOOPBACK)
                .unwrap();
        });
        let child = node.netns.run(|| command.spawn()).unwrap();
        Self {
            node,
            _root: root,
            bpffs,
            dir,
            child,
        }
    }

    /// Lets the agent reach the API server, at the address that it has on this machine.
    fn connect(&self, plane: &ControlPlane) -> Proxy {
        let port = plane.config_of("admin").cluster_url.port_u16().unwrap();
        Proxy::inside(&self.node.netns, port)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// Replaces the configuration, and tells the agent.
    fn edit(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::HUP).unwrap();
    }

    async fn is_ready(&self) {
        eventually("ready", async || {
            (self.readiness() == "HTTP/1.1 200 OK").then_some(())
        })
        .await;
    }

    /// How the agent answers the readiness probe, in one line; empty if it does not.
    fn readiness(&self) -> String {
        let ask = || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.node.netns.run(ask).unwrap_or_default();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// The line of the log that has `words`, once there is one.
    async fn says(&self, words: &str) -> String {
        eventually(words, async || {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
            let line = log.lines().find(|line| line.contains(words));
            line.map(str::to_owned)
        })
        .await
    }

    async fn decides(&self, verdict: &str) {
        eventually(verdict, async || (self.decision() == verdict).then_some(())).await;
    }

    /// What the tables in the kernel say of the way from the pod to its node.
    fn decision(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
            .args([
                "explain",
                "shop/web",
                "192.0.2.1",
                "--port=tcp/80",
                "--bpffs",
            ])
            .arg(&self.bpffs)
            .arg("--state-dir")
            .arg(self.dir.path().join("run"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words = ["allow", "deny"];
        let found = text.split_whitespace().find(|word| words.contains(word));
        found.unwrap_or_default().to_owned()
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
