// SPDX-License-Identifier: Apache-2.0
//! What does a large cluster look like? `generate`, for measurements: the same seed, the same cluster.

use std::fmt::Write as _;

use crate::{
    Io,
    args::{GenerateArgs, TextOnly},
    exit::ExitStatus,
};

/// Runs `generate`.
pub fn run(io: &Io<'_>, args: &GenerateArgs) -> anyhow::Result<ExitStatus> {
    io.format::<TextOnly>()?;
    let mut random = Random(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut text = String::new();
    let namespaces = (args.workloads / 20).max(1);
    for namespace in 0..namespaces {
        let team = random.below(8);
        write!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: ns-{namespace}, labels: {{team: t{team}}}}}\n"
        )?;
    }
    let mut address = 0u32;
    for workload in 0..args.workloads {
        let (namespace, tier) = (workload % namespaces, random.below(4));
        // Replicas are made from one template: they declare the same ports.
        let port = 8000 + random.below(4);
        for replica in 0..args.replicas {
            address += 1;
            let [_, b, c, d] = address.to_be_bytes();
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: w{workload}-{replica}, namespace: ns-{namespace}, \
                 labels: {{app: w{workload}, tier: x{tier}}}}}\nspec:\n  nodeName: n{}\n  containers:\n  - name: c\n    \
                 ports: [{{name: http, containerPort: {port}}}]\nstatus:\n  phase: Running\n  podIPs: [{{ip: \"10.{b}.{c}.{d}\"}}]\n",
                address % 50,
            )?;
        }
    }
    for policy in 0..args.policies {
        let workload = random.below(args.workloads.max(1));
        let namespace = workload % namespaces;
        write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{policy}, namespace: ns-{namespace}}}\nspec:\n"
        )?;
        match random.below(4) {
            0 => text.push_str("  podSelector: {}\n"),
            1 => writeln!(
                text,
                "  podSelector: {{matchLabels: {{tier: x{}}}}}",
                random.below(4)
            )?,
            _ => writeln!(text, "  podSelector: {{matchLabels: {{app: w{workload}}}}}")?,
        }
        text.push_str("  ingress:\n");
        for _ in 0..=random.below(3) {
            let peer = match random.below(4) {
                0 => format!(
                    "namespaceSelector: {{matchLabels: {{team: t{}}}}}",
                    random.below(8)
                ),
                1 => format!("ipBlock: {{cidr: 10.{}.0.0/16}}", random.below(4)),
                _ => {
                    let other = namespace + namespaces * random.below(20);
                    format!("podSelector: {{matchLabels: {{app: w{other}}}}}")
                }
            };
            let port = match random.below(3) {
                0 => "http".to_owned(),
                _ => (8000 + random.below(4)).to_string(),
            };
            write!(
                text,
                "  - from:\n    - {peer}\n    ports: [{{port: {port}}}]\n"
            )?;
        }
    }
    io.answer(&text)?;
    Ok(ExitStatus::Success)
}

/// Xorshift: reproducible everywhere, and random enough to scatter labels.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bits = usize::try_from(self.0 >> 33).unwrap_or_default();
        bits % limit.max(1)
    }
}
