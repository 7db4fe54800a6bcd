// SPDX-License-Identifier: Apache-2.0
//! How does the agent police a world?

use std::{collections::BTreeMap, io};

use agent::{
    datapath::{Attachment, Options},
    engine::{Engine, Interfaces, PodState, Settings},
    kernel::Kernel,
};
use anyhow::{Context as _, Result, ensure};
use policy_compiler::{
    Snapshot,
    model::PodKey,
    synthetic::{Kind, Shape, cluster},
};

use super::world::{NODE, World, objects};

/// Isolates both pods in both directions, the most there is to do per packet.
pub(crate) const ISOLATED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: bench, name: pair}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 7000, protocol: TCP}, {port: 7000, protocol: UDP}]
  - from: [{namespaceSelector: {matchLabels: {env: prod}}, podSelector: {matchLabels: {tier: web}}}]
    ports: [{port: 8000, endPort: 9000}]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
    ports: [{port: 7000, protocol: TCP}, {port: 7000, protocol: UDP}]
  - to: [{namespaceSelector: {matchLabels: {env: stage}}}]
    ports: [{port: 443}]
  - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]
";

/// Selects neither pod.
pub(crate) const ELSEWHERE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: bench, name: elsewhere}
spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress, Egress]}
";

/// The cluster that the two pods are part of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Pods elsewhere and on the same node.
    pub(crate) pods: u32,
    /// Policies beside the pair's own.
    pub(crate) policies: u32,
}

/// Enforces `policies`, amid a cluster of this size, on the two pods. The kernel goes on when this
/// returns, as it does when an agent stops.
pub(crate) fn enforce(
    world: &World,
    attachment: Attachment,
    policies: &str,
    scale: Scale,
) -> Result<()> {
    let snapshot = crowd(policies, scale)?;
    let pods = [pod("client"), pod("server")];
    let interfaces = Interfaces {
        pods: BTreeMap::from([
            (world.interfaces[0], Some(pods[0].clone())),
            (world.interfaces[1], Some(pods[1].clone())),
        ]),
        ..Interfaces::default()
    };
    let options = Options {
        root: world.bpffs.clone(),
        attachment: Some(attachment),
        ..Options::default()
    };
    let settings = Settings {
        fresh: true,
        ..Settings::default()
    };
    let report = world.router.run(|| {
        let kernel = Kernel::open(&options).map_err(io::Error::other)?;
        let mut engine = Engine::new(NODE, settings, kernel);
        engine
            .set_interfaces(interfaces)
            .map_err(io::Error::other)?;
        engine.apply(snapshot).map_err(io::Error::other)?;
        Ok(engine.report().clone())
    });
    let report = report.context("cannot enforce")?;
    for pod in pods {
        let state = report.pods.get(&pod);
        ensure!(
            state == Some(&PodState::Enforced),
            "`{pod}` is not enforced: {state:?}"
        );
    }
    Ok(())
}

/// The two pods amid others.
fn crowd(policies: &str, scale: Scale) -> Result<Snapshot> {
    let mut snapshot = cluster(&Shape {
        pods: scale.pods,
        policies: scale.policies,
        admin_policies: 0,
        kind: Kind::Realistic,
        seed: 1,
    });
    let own = objects(policies)?;
    snapshot.namespaces.extend(own.namespaces);
    snapshot.nodes.extend(own.nodes);
    snapshot.pods.extend(own.pods.values().cloned());
    snapshot.network_policies.extend(own.network_policies);
    Ok(snapshot)
}

fn pod(name: &str) -> PodKey {
    PodKey::new("bench", name)
}
