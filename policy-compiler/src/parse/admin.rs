// SPDX-License-Identifier: Apache-2.0
//! The cluster-scoped policies of policy.networking.k8s.io: AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy v1alpha1, ClusterNetworkPolicy v1alpha2.

mod peer;
mod port;

use std::sync::Arc;

use serde_json::Value;

use super::{
    Channel, Parsed, Settings,
    meta::{Frame, Meta},
    reader::{Fields, Reader},
    selector::{CheckedBy, selector},
    syntax,
};
use crate::{
    manifest::{Locator, Step},
    model::{
        Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Priority,
        Selector, Subject, Tier,
    },
};

/// Reads an AdminNetworkPolicy.
pub fn admin_network_policy(
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<AdminPolicy> {
    policy(value, locator, Schema::v1alpha1(AdminKind::Admin, settings))
}

/// Reads a BaselineAdminNetworkPolicy. One that is not called `default` has no meaning.
pub fn baseline_admin_network_policy(
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<AdminPolicy> {
    policy(
        value,
        locator,
        Schema::v1alpha1(AdminKind::Baseline, settings),
    )
}

/// Reads a ClusterNetworkPolicy. One of an unknown tier has no meaning.
pub fn cluster_network_policy(
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<AdminPolicy> {
    policy(value, locator, Schema::v1alpha2(settings))
}

/// What the three kinds differ in.
#[derive(Clone, Copy)]
struct Schema {
    kind: AdminKind,
    channel: Channel,
    /// What the version calls [`Action::Allow`].
    allow: &'static str,
    /// What the version calls the list of ports.
    ports: &'static str,
    max_rules: usize,
    /// Peers or ports of a rule.
    max_items: usize,
}

impl Schema {
    fn v1alpha1(kind: AdminKind, settings: &Settings) -> Self {
        Self {
            kind,
            channel: settings.channel,
            allow: "Allow",
            ports: "ports",
            max_rules: 100,
            max_items: 100,
        }
    }

    fn v1alpha2(settings: &Settings) -> Self {
        Self {
            kind: AdminKind::Cluster,
            channel: settings.channel,
            allow: "Accept",
            ports: "protocols",
            max_rules: 25,
            max_items: 25,
        }
    }

    fn is_experimental(self) -> bool {
        match self.channel {
            Channel::Experimental | Channel::Either => true,
            Channel::Standard => false,
        }
    }

    /// Whether some schema takes a named port beside `networks`: of v1alpha2 the standard one.
    fn takes_names_beside_networks(self) -> bool {
        match self.channel {
            Channel::Standard | Channel::Either => self.kind == AdminKind::Cluster,
            Channel::Experimental => false,
        }
    }

    fn kind_name(self) -> &'static str {
        match self.kind {
            AdminKind::Cluster => "ClusterNetworkPolicy",
            AdminKind::Admin => "AdminNetworkPolicy",
            AdminKind::Baseline => "BaselineAdminNetworkPolicy",
        }
    }

    fn spec_fields(self) -> &'static [&'static str] {
        match self.kind {
            AdminKind::Cluster => &["tier", "priority", "subject", "ingress", "egress"],
            AdminKind::Admin => &["priority", "subject", "ingress", "egress"],
            AdminKind::Baseline => &["subject", "ingress", "egress"],
        }
    }
}

fn policy(value: &Value, locator: &Locator<'_>, schema: Schema) -> Parsed<AdminPolicy> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: schema.kind_name(),
        default_namespace: None,
        name: syntax::dns_subdomain,
        closed: true,
    };
    let (fields, meta) = frame.open(&mut r, value);
    let audited = meta.is_audited(&mut r);
    let misnamed = schema.kind == AdminKind::Baseline && *meta.name != *"default";
    if misnamed {
        r.within(Step::Field("metadata"), |r| {
            r.reject_at(
                "name",
                "the only BaselineAdminNetworkPolicy is called `default`",
            );
        });
    }
    let spec = match fields {
        Some(fields) if fields.has("spec") => r
            .field(&fields, "spec", |r, value| spec(r, value, schema, meta))
            .flatten(),
        Some(_) => {
            r.reject_at("spec", "a spec is required");
            None
        }
        None => None,
    };
    let at = r.here();
    let policy = spec.filter(|_| !misnamed);
    r.finish(policy.map(|policy| AdminPolicy {
        audited,
        at,
        ..policy
    }))
}

fn spec<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
    meta: Meta,
) -> Option<AdminPolicy> {
    let fields = r.object(value, schema.spec_fields())?;
    let tier = match schema.kind {
        AdminKind::Admin => Some(Tier::Admin),
        AdminKind::Baseline => Some(Tier::Baseline),
        AdminKind::Cluster => tier(r, &fields),
    };
    let priority = match schema.kind {
        AdminKind::Baseline => Some(AdminPolicy::BASELINE_PRIORITY),
        AdminKind::Admin | AdminKind::Cluster => priority(r, &fields),
    };
    let subject = if let Some(value) = fields.get("subject") {
        r.within(Step::Field("subject"), |r| subject(r, value, schema))
    } else {
        r.reject_at("subject", "a subject is required");
        None
    };
    let ingress = r.field(&fields, "ingress", |r, value| {
        rules(r, value, schema, Direction::Ingress)
    });
    let egress = r.field(&fields, "egress", |r, value| {
        rules(r, value, schema, Direction::Egress)
    });
    Some(AdminPolicy {
        kind: schema.kind,
        name: meta.name,
        tier: tier?,
        priority: priority?,
        subject: subject.unwrap_or(Subject::Nothing),
        ingress: ingress.unwrap_or_default(),
        egress: egress.unwrap_or_default(),
        audited: false,
        generation: meta.generation,
        at: None,
    })
}

fn tier<'a>(r: &mut Reader<'a>, fields: &Fields<'a>) -> Option<Tier> {
    let Some(value) = fields.get("tier") else {
        r.reject_at("tier", "a tier is required: Admin or Baseline");
        return None;
    };
    r.within(Step::Field("tier"), |r| match r.string(value)? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            r.reject(format!("`{other}` is neither Admin nor Baseline"));
            None
        }
    })
}

fn priority<'a>(r: &mut Reader<'a>, fields: &Fields<'a>) -> Option<Priority> {
    let Some(value) = fields.get("priority") else {
        r.reject_at("priority", "a priority is required: 0 to 1000");
        return None;
    };
    r.within(Step::Field("priority"), |r| {
        let number = r.integer(value)?;
        if !(0..=1000).contains(&number) {
            r.reject(format!("`{number}` is not a priority: 0 to 1000"));
        }
        // Behind every other policy there is only BASELINE_PRIORITY.
        let limit = i64::from(i32::MAX) - 1;
        let clamped = number.clamp(i64::from(i32::MIN), limit);
        i32::try_from(clamped).ok().map(Priority)
    })
}

fn subject<'a>(r: &mut Reader<'a>, value: &'a Value, schema: Schema) -> Option<Subject> {
    let fields = r.object(value, &["namespaces", "pods"])?;
    let namespaces = r.field(&fields, "namespaces", |r, value| {
        let namespaces = selector(r, value, CheckedBy::Nobody).exact()?;
        Some((namespaces, Selector::default()))
    });
    let pods = r.field(&fields, "pods", |r, value| {
        namespaced_pods(r, value, schema)
    });
    if fields.count(&["namespaces", "pods"]) != 1 {
        r.reject("exactly one of namespaces and pods is required");
        return None;
    }
    let (namespaces, pods) = namespaces.or(pods)??;
    (!fields.has_unknown).then_some(Subject::Pods { namespaces, pods })
}

/// `pods`: namespaces and pods, both by selector. Without `namespaceSelector`, all namespaces, where the
/// version permits that.
fn namespaced_pods<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
) -> Option<(Selector, Selector)> {
    let fields = r.object(value, &["namespaceSelector", "podSelector"])?;
    let select = |r: &mut Reader<'a>, value| selector(r, value, CheckedBy::Nobody).exact();
    let namespaces = r.field(&fields, "namespaceSelector", select);
    let pods = r.field(&fields, "podSelector", select);
    let namespaces_required = schema.kind != AdminKind::Cluster;
    let missing = [
        (
            "namespaceSelector",
            namespaces_required && namespaces.is_none(),
        ),
        ("podSelector", pods.is_none()),
    ];
    for (name, missing) in missing {
        if missing {
            r.reject_at(name, "a selector is required");
        }
    }
    let namespaces = match namespaces {
        Some(namespaces) => namespaces?,
        None if namespaces_required => return None,
        None => Selector::default(),
    };
    (!fields.has_unknown).then_some((namespaces, pods??))
}

fn rules<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
    direction: Direction,
) -> Vec<AdminRule> {
    let rules = r.items(value, |r, value| rule(r, value, schema, direction));
    too_many(r, rules.len(), schema.max_rules, "rules");
    rules
}

fn rule<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
    direction: Direction,
) -> AdminRule {
    let at = r.here();
    let (rule, closed) = r.rule(|r| open_rule(r, value, schema, direction));
    let rule = rule.unwrap_or_default();
    AdminRule {
        name: rule.name,
        action: rule.action.unwrap_or(Action::Deny),
        closed,
        peers: rule.peers,
        ports: rule.ports,
        at,
    }
}

#[derive(Default)]
struct OpenRule {
    name: Option<Arc<str>>,
    action: Option<Action>,
    peers: Vec<AdminPeer>,
    ports: Option<Vec<AdminPort>>,
}

fn open_rule<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
    direction: Direction,
) -> Option<OpenRule> {
    let peers_name = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let Some(fields) = r.object(value, &["name", "action", peers_name, schema.ports]) else {
        r.close("not a rule");
        return None;
    };
    if fields.has_unknown {
        r.close("unknown field in the rule");
    }
    let name = r.field(&fields, "name", |r, value| {
        let name = r.string(value)?;
        if name.chars().count() > 100 {
            r.reject("a rule name has at most 100 characters");
        }
        (!name.is_empty()).then(|| Arc::from(name))
    });
    let action = if let Some(value) = fields.get("action") {
        r.within(Step::Field("action"), |r| action(r, value, schema))
    } else {
        r.reject_at("action", "an action is required");
        None
    };
    if action.is_none() {
        r.close("unknown action");
    }
    let peers = if let Some(value) = fields.get(peers_name) {
        r.within(Step::Field(peers_name), |r| {
            let peers = r.items(value, |r, value| {
                peer::peer(r, value, schema, direction, action)
            });
            if peers.is_empty() {
                r.close("no peer");
                if value.is_array() {
                    r.reject("at least one peer is required");
                }
            }
            too_many(r, peers.len(), schema.max_items, "peers");
            peers.into_iter().flatten().collect()
        })
    } else {
        r.close("no peer");
        r.reject_at(peers_name, "peers are required");
        Vec::new()
    };
    let ports = r.field(&fields, schema.ports, |r, value| {
        let ports = r.items(value, |r, value| port::port(r, value, schema));
        if ports.is_empty() {
            r.close("no port");
            if value.is_array() {
                r.reject(format!(
                    "at least one entry is required; without `{}` every port matches",
                    schema.ports
                ));
            }
        }
        too_many(r, ports.len(), schema.max_items, schema.ports);
        ports.into_iter().flatten().collect::<Vec<_>>()
    });
    port::named_port_without_pod(r, &peers, ports.as_deref(), schema);
    Some(OpenRule {
        name: name.flatten(),
        action,
        peers,
        ports,
    })
}

fn action<'a>(r: &mut Reader<'a>, value: &'a Value, schema: Schema) -> Option<Action> {
    let name = r.string(value)?;
    let action = match name {
        "Allow" | "Accept" => Some(Action::Allow),
        "Deny" => Some(Action::Deny),
        "Pass" if schema.kind != AdminKind::Baseline => Some(Action::Pass),
        _ => None,
    };
    if action.is_none() || action == Some(Action::Allow) && name != schema.allow {
        let allow = schema.allow;
        let known = match schema.kind {
            AdminKind::Baseline => format!("{allow}, Deny"),
            AdminKind::Admin | AdminKind::Cluster => format!("{allow}, Deny, Pass"),
        };
        r.reject(format!("`{name}` is none of {known}"));
    }
    action
}

fn too_many(r: &mut Reader<'_>, count: usize, max: usize, what: &str) {
    if count > max {
        r.reject(format!("{count} {what}, at most {max} are allowed"));
    }
}
