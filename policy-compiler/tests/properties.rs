// SPDX-License-Identifier: Apache-2.0
//! Do the laws of policies hold: what must not change a verdict does not, what may only open or only
//! close does only that? On the oracle, which all other engines are held to in `equivalence`.

mod rewrite;
mod suite;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy_compiler::{
    Flow, Reason, Snapshot, Trace,
    model::{
        Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, Direction, Family, NetworkPeer,
        NetworkPort, PodKey, PolicyKind, PortRange, Priority, Subject, Tier, family_of,
    },
    reference::evaluate,
    strategies::{
        Settings, admin_policy, admin_rule, cluster_policy, interesting_addresses, network_policy,
        network_rule, world,
    },
    verdict::Endpoint,
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{TestCaseError, TestCaseResult},
};
use rewrite::{
    alternatives, catch_all, each_rule, edit_admin, edit_pods, edit_rules, forget_addresses,
    is_closed, policed, policies, rotate, rules_mut, seen_alike,
};
use suite::{Coverage, EVERYTHING, check};

/// Flows tried in each world.
const FLOWS: usize = 24;

/// P1: the order in which peers, ports, exceptions and container ports are listed changes neither a
/// verdict nor its reason. (Objects have no order in a snapshot.)
#[test]
fn order_of_alternatives_does_not_matter() {
    let worlds = (worlds(), any::<prop::sample::Index>());
    check(
        "p1",
        10_000,
        worlds,
        &EVERYTHING,
        |((before, flows), turn), met| {
            let mut after = before.clone();
            edit_pods(&mut after, |pod| {
                rotate(Arc::make_mut(&mut pod.ports), turn);
            });
            for policy in after.network_policies.values_mut().map(Arc::make_mut) {
                let lists = [&mut policy.ingress, &mut policy.egress];
                for rule in lists.into_iter().flatten().flatten() {
                    for peer in rule.peers.iter_mut().flatten() {
                        if let NetworkPeer::IpBlock(block) = peer {
                            rotate(&mut block.except, turn);
                        }
                    }
                    rule.peers.iter_mut().for_each(|peers| rotate(peers, turn));
                    rule.ports.iter_mut().for_each(|ports| rotate(ports, turn));
                }
            }
            edit_rules(&mut after, |rule| {
                for peer in &mut rule.peers {
                    if let AdminPeer::Networks(networks) = peer {
                        rotate(networks, turn);
                    }
                }
                rotate(&mut rule.peers, turn);
                rule.ports.iter_mut().for_each(|ports| rotate(ports, turn));
            });
            same_traces(&before, &after, &flows, met)
        },
    );
}

/// P2: only the order of priorities matters.
#[test]
fn priorities_matter_by_order_only() {
    let worlds = (worlds(), prop::collection::vec(1..200_i32, 6));
    check(
        "p2",
        10_000,
        worlds,
        &EVERYTHING,
        |((before, flows), steps), met| {
            let mut after = before.clone();
            for tier in [Tier::Admin, Tier::Baseline] {
                let old: BTreeSet<_> = policies(&before, tier).map(|p| p.priority).collect();
                let new = steps.iter().scan(-1, |sum, step| {
                    *sum += step;
                    Some(Priority(*sum))
                });
                let renumbered: BTreeMap<_, _> = old.into_iter().zip(new).collect();
                edit_admin(&mut after, |policy| {
                    if policy.tier == tier && policy.kind != AdminKind::Baseline {
                        policy.priority = renumbered[&policy.priority];
                    }
                });
            }
            same_traces(&before, &after, &flows, met)
        },
    );
}

/// P3: a rule with several peers or ports is the same as consecutive rules with one each.
#[test]
fn rules_split_into_their_alternatives() {
    check(
        "p3",
        10_000,
        worlds(),
        &EVERYTHING,
        |(before, flows), met| {
            let mut after = before.clone();
            let mut origin: BTreeMap<_, Vec<u32>> = BTreeMap::new();
            edit_admin(&mut after, |policy| {
                let reference = policy.policy_ref();
                for direction in Direction::BOTH {
                    let rules = rules_mut(policy, direction);
                    let mut split = Vec::new();
                    for (index, rule) in (0..).zip(rules.drain(..)) {
                        let pieces = alternatives(&rule);
                        let origins = origin.entry((reference.clone(), direction)).or_default();
                        origins.extend(pieces.iter().map(|_| index));
                        split.extend(pieces);
                    }
                    *rules = split;
                }
            });
            for flow in &flows {
                let expected = evaluate(&before, flow);
                met.trace(&expected);
                let mut trace = evaluate(&after, flow);
                each_rule(&mut trace, |rule| {
                    if let Some(origins) = origin.get(&(rule.policy.clone(), rule.direction)) {
                        rule.index = origins[rule.index as usize];
                    }
                });
                prop_assert_eq!(trace, expected);
            }
            Ok(())
        },
    );
}

/// P4: AdminNetworkPolicies and the BaselineAdminNetworkPolicy can be rewritten as
/// ClusterNetworkPolicies, renumbered in their present order.
#[test]
fn old_kinds_migrate_to_the_new_one() {
    check(
        "p4",
        10_000,
        worlds(),
        &EVERYTHING,
        |(before, flows), met| {
            let mut after = before.clone();
            after.admin_policies.clear();
            let mut old_names = BTreeMap::new();
            for tier in [Tier::Admin, Tier::Baseline] {
                let mut ordered: Vec<_> = policies(&before, tier).cloned().collect();
                ordered.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
                for (priority, mut policy) in (0..).zip(ordered) {
                    let new = Arc::make_mut(&mut policy);
                    let old = new.policy_ref();
                    new.kind = AdminKind::Cluster;
                    new.name = format!("{}-{}", old.kind, old.name).into();
                    new.priority = Priority(priority);
                    old_names.insert(new.policy_ref(), old);
                    after.insert_admin_policy(new.clone());
                }
            }
            for flow in &flows {
                let expected = evaluate(&before, flow);
                met.trace(&expected);
                let mut trace = evaluate(&after, flow);
                each_rule(&mut trace, |rule| {
                    if rule.policy.kind != PolicyKind::NetworkPolicy {
                        rule.policy = old_names[&rule.policy].clone();
                    }
                });
                prop_assert_eq!(trace, expected);
            }
            Ok(())
        },
    );
}

/// P5: neighbours of equal action can change places, unless one fails closed.
#[test]
fn neighbours_of_equal_action_commute() {
    let worlds = (worlds(), any::<Index>());
    let required = [&EVERYTHING[..], &["swapped"]].concat();
    check(
        "p5",
        10_000,
        worlds,
        &required,
        |((before, flows), pick), met| {
            let mut after = before.clone();
            let learns = before.domains.is_some();
            let mut swapped = false;
            edit_admin(&mut after, |policy| {
                for direction in Direction::BOTH {
                    let rules = rules_mut(policy, direction);
                    if rules.len() < 2 {
                        continue;
                    }
                    let at = pick.index(rules.len() - 1);
                    let (a, b) = (&rules[at], &rules[at + 1]);
                    if a.action == b.action && !is_closed(a, learns) && !is_closed(b, learns) {
                        rules.swap(at, at + 1);
                        swapped = true;
                    }
                }
            });
            if swapped {
                met.met("swapped");
            }
            same_verdicts(&before, &after, &flows, met)
        },
    );
}

/// P6: a policy that selects nothing says nothing.
#[test]
fn policies_without_subjects_say_nothing() {
    let settings = Settings::default();
    let extra = prop_oneof![
        admin_policy(settings).boxed(),
        cluster_policy(settings).boxed(),
    ];
    check(
        "p6",
        10_000,
        (worlds(), extra),
        &EVERYTHING,
        |((before, flows), mut extra), met| {
            extra.subject = Subject::Nothing;
            extra.name = "extra".into();
            let mut after = before.clone();
            after.insert_admin_policy(extra);
            same_traces(&before, &after, &flows, met)
        },
    );
}

/// P7: one more rule in a direction that isolates only opens.
#[test]
fn more_network_rules_only_open() {
    let worlds = (worlds(), network_rule(Settings::default()), any::<Index>());
    let required = [&EVERYTHING[..], &["opened"]].concat();
    check(
        "p7",
        10_000,
        worlds,
        &required,
        |((before, flows), rule, at), met| {
            let mut after = before.clone();
            for policy in after.network_policies.values_mut().map(Arc::make_mut) {
                for rules in [&mut policy.ingress, &mut policy.egress]
                    .into_iter()
                    .flatten()
                {
                    rules.insert(at.index(rules.len() + 1), rule.clone());
                }
            }
            for flow in &flows {
                let (old, new) = (evaluate(&before, flow), evaluate(&after, flow));
                met.trace(&old);
                if new.verdict < old.verdict {
                    met.met("opened");
                }
                prop_assert!(
                    new.verdict <= old.verdict,
                    "{flow:?}: {old:?}, then {new:?}"
                );
            }
            Ok(())
        },
    );
}

/// P8: one more NetworkPolicy opens only what another one or the Baseline tier had closed.
#[test]
fn more_network_policies_leave_the_admin_tier_alone() {
    let worlds = (worlds(), network_policy(Settings::default()));
    let required = [&EVERYTHING[..], &["opened", "closed"]].concat();
    check(
        "p8",
        10_000,
        worlds,
        &required,
        |((before, flows), mut extra), met| {
            extra.name = "extra".into();
            let mut after = before.clone();
            after.insert_network_policy(extra);
            for flow in &flows {
                let (old, new) = (evaluate(&before, flow), evaluate(&after, flow));
                met.trace(&old);
                for (old, new) in [(&old.egress, &new.egress), (&old.ingress, &new.ingress)] {
                    if new.verdict < old.verdict {
                        met.met("opened");
                        let tiers = [Tier::NetworkPolicy, Tier::Baseline];
                        prop_assert!(tiers.contains(&old.tier), "{flow:?}: {old:?}, then {new:?}");
                    }
                    if new.verdict > old.verdict {
                        met.met("closed");
                        let tiers = [Tier::Baseline, Tier::Default];
                        prop_assert!(tiers.contains(&old.tier), "{flow:?}: {old:?}, then {new:?}");
                    }
                    if old.tier == Tier::Admin {
                        prop_assert_eq!(new, old);
                    }
                }
            }
            Ok(())
        },
    );
}

/// P9: nothing that is understood matters after a rule for everybody in the same policy and direction.
#[test]
fn rules_after_a_catch_all_are_dead() {
    let settings = Settings::default();
    let kind = AdminKind::Cluster;
    let rule = |direction| admin_rule(settings, kind, direction);
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass]);
    let extra = (
        action,
        rule(Direction::Egress),
        rule(Direction::Ingress),
        any::<Index>(),
    );
    let required = [&EVERYTHING[..], &["appended"]].concat();
    check(
        "p9",
        10_000,
        (worlds(), extra),
        &required,
        |((mut before, flows), extra), met| {
            let (action, egress, ingress, at) = extra;
            // Behind a denial that is only audited the next rule is asked.
            let is_final = |policy: &AdminPolicy| {
                policy.kind == AdminKind::Cluster && !(policy.audited && action == Action::Deny)
            };
            edit_admin(&mut before, |policy| {
                if is_final(policy) {
                    for direction in Direction::BOTH {
                        let rules = rules_mut(policy, direction);
                        rules.insert(at.index(rules.len() + 1), catch_all(direction, action));
                    }
                }
            });
            let learns = before.domains.is_some();
            let mut after = before.clone();
            edit_admin(&mut after, |policy| {
                if is_final(policy) {
                    for (direction, rule) in
                        [(Direction::Egress, &egress), (Direction::Ingress, &ingress)]
                    {
                        if !is_closed(rule, learns) {
                            rules_mut(policy, direction).push(rule.clone());
                            met.met("appended");
                        }
                    }
                }
            });
            same_traces(&before, &after, &flows, met)
        },
    );
}

/// P10: policies that select pods and no addresses treat both families alike.
#[test]
fn selectors_do_not_see_families() {
    let required = [
        "allow",
        "deny",
        "pass",
        "isolated",
        "fail-closed",
        "audited",
        "admin-rule",
        "network-rule",
    ];
    check(
        "p10",
        10_000,
        worlds(),
        &required,
        |(mut snapshot, flows), met| {
            forget_addresses(&mut snapshot);
            let policed = |end: &Endpoint| policed(&snapshot, end).is_some();
            for flow in flows
                .iter()
                .filter(|f| policed(&f.source) && policed(&f.destination))
            {
                let [v4, v6] = [Family::V4, Family::V6].map(|family| {
                    evaluate(
                        &snapshot,
                        &Flow {
                            family,
                            ..flow.clone()
                        },
                    )
                });
                met.trace(&v4);
                prop_assert_eq!(v4, v6, "{:?}", flow);
            }
            Ok(())
        },
    );
}

/// P11: where all pods give a port the same name, the name and the number are one.
#[test]
fn names_of_ports_are_their_numbers() {
    let required = [
        "allow",
        "deny",
        "pass",
        "isolated",
        "fail-closed",
        "audited",
        "admin-rule",
        "named",
    ];
    check(
        "p11",
        10_000,
        worlds(),
        &required,
        |(mut before, flows), met| {
            let Some(ports) = before.pods.values().next().map(|pod| pod.ports.clone()) else {
                return Ok(());
            };
            edit_pods(&mut before, |pod| pod.ports.clone_from(&ports));
            let mut after = before.clone();
            let named = |name: &Arc<str>| {
                let ports = ports
                    .iter()
                    .filter(move |port| port.name.as_ref() == Some(name));
                ports
                    .map(|port| (port.protocol, port.number))
                    .collect::<Vec<_>>()
            };
            let mut replaced = false;
            for policy in after.network_policies.values_mut().map(Arc::make_mut) {
                let lists = [&mut policy.ingress, &mut policy.egress];
                for ports in lists
                    .into_iter()
                    .flatten()
                    .flatten()
                    .flat_map(|rule| &mut rule.ports)
                {
                    let numbers = ports.drain(..).flat_map(|port| match port {
                        NetworkPort::Named(wanted, name) => {
                            let numbers = named(&name).into_iter().filter(|(p, _)| *p == wanted);
                            replaced = true;
                            numbers
                                .map(|(p, n)| NetworkPort::Range(p, PortRange::single(n)))
                                .collect()
                        }
                        port @ (NetworkPort::Range(..) | NetworkPort::Nothing) => vec![port],
                    });
                    *ports = numbers.collect();
                }
            }
            edit_rules(&mut after, |rule| {
                if let Some(ports) = &mut rule.ports {
                    let numbers = ports.drain(..).flat_map(|port| match port {
                        AdminPort::Named(name) => {
                            replaced = true;
                            let numbers = named(&name).into_iter();
                            numbers.map(|(p, n)| AdminPort::Range(p, n..=n)).collect()
                        }
                        port @ AdminPort::Range(..) => vec![port],
                    });
                    *ports = numbers.collect();
                }
            });
            if replaced {
                met.met("named");
            }
            // Elsewhere a name has no number.
            let to_pods = |flow: &&Flow| policed(&before, &flow.destination).is_some();
            let flows: Vec<_> = flows.iter().filter(to_pods).cloned().collect();
            same_traces(&before, &after, &flows, met)
        },
    );
}

/// P13: a pod with the namespace, labels, ports and node of another is treated like the other.
#[test]
fn pods_alike_are_treated_alike() {
    let required = [
        "allow",
        "deny",
        "pass",
        "isolated",
        "fail-closed",
        "audited",
        "twin",
    ];
    check(
        "p13",
        10_000,
        worlds(),
        &required,
        |(mut snapshot, flows), met| {
            forget_addresses(&mut snapshot);
            for flow in &flows {
                let Some(original) = policed(&snapshot, &flow.source) else {
                    continue;
                };
                let mut twin = (**original).clone();
                twin.key = PodKey::new(&twin.key.namespace, "twin");
                twin.addresses = vec![
                    IpAddr::from([10, 99, 0, 1]),
                    IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 1]),
                ];
                let source = Endpoint::Pod(twin.key.clone());
                let destination = flow.destination.clone();
                let mut both = snapshot.clone();
                both.insert_pod(twin);
                let expected = evaluate(&both, flow);
                // To itself is not the same as to another of its kind.
                if [&expected.egress, &expected.ingress]
                    .iter()
                    .any(|d| d.reason == Reason::SelfTraffic)
                {
                    continue;
                }
                met.trace(&expected);
                met.met("twin");
                let there = Flow {
                    source: source.clone(),
                    ..flow.clone()
                };
                prop_assert_eq!(evaluate(&both, &there), expected, "{:?}", there);
                let back = Flow {
                    source: destination.clone(),
                    destination: flow.source.clone(),
                    ..flow.clone()
                };
                let back_to_twin = Flow {
                    source: destination,
                    destination: source,
                    ..flow.clone()
                };
                prop_assert_eq!(
                    evaluate(&both, &back_to_twin),
                    evaluate(&both, &back),
                    "{:?}",
                    back
                );
            }
            Ok(())
        },
    );
}

/// P14: addresses that nobody owns and no block tells apart are one.
#[test]
fn unknown_addresses_differ_by_blocks_only() {
    let required = [
        "allow",
        "deny",
        "pass",
        "isolated",
        "fail-closed",
        "audited",
        "alike",
    ];
    check(
        "p14",
        10_000,
        worlds(),
        &required,
        |(snapshot, flows), met| {
            let addresses: Vec<_> = interesting_addresses(&snapshot)
                .into_iter()
                .filter(|a| snapshot.pod_at(*a).is_none() && snapshot.node_at(*a).is_none())
                .collect();
            for flow in &flows {
                let Endpoint::Address(address) = flow.destination else {
                    continue;
                };
                if !addresses.contains(&address) {
                    continue;
                }
                let expected = evaluate(&snapshot, flow);
                met.trace(&expected);
                let alike = |other: &&IpAddr| {
                    family_of(**other) == flow.family && seen_alike(&snapshot, address, **other)
                };
                for other in addresses.iter().filter(alike) {
                    met.met("alike");
                    let destination = Endpoint::Address(*other);
                    let there = Flow {
                        destination,
                        ..flow.clone()
                    };
                    prop_assert_eq!(evaluate(&snapshot, &there), expected.clone(), "{:?}", there);
                }
            }
            Ok(())
        },
    );
}

fn worlds() -> BoxedStrategy<(Snapshot, Vec<Flow>)> {
    world(Settings::default(), FLOWS).boxed()
}

#[track_caller]
fn same_traces(
    before: &Snapshot,
    after: &Snapshot,
    flows: &[Flow],
    met: &mut Coverage,
) -> TestCaseResult {
    compare(before, after, flows, met, |old, new| old == new)
}

#[track_caller]
fn same_verdicts(
    before: &Snapshot,
    after: &Snapshot,
    flows: &[Flow],
    met: &mut Coverage,
) -> TestCaseResult {
    compare(before, after, flows, met, |old, new| {
        let verdicts = |trace: &Trace| [trace.egress.verdict, trace.ingress.verdict];
        verdicts(old) == verdicts(new)
    })
}

fn compare(
    before: &Snapshot,
    after: &Snapshot,
    flows: &[Flow],
    met: &mut Coverage,
    same: impl Fn(&Trace, &Trace) -> bool,
) -> TestCaseResult {
    for flow in flows {
        let (old, new) = (evaluate(before, flow), evaluate(after, flow));
        met.trace(&old);
        if !same(&old, &new) {
            return Err(TestCaseError::fail(format!(
                "{flow:?}: {old:?}, then {new:?}"
            )));
        }
    }
    Ok(())
}
