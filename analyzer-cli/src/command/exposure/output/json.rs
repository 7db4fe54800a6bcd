// SPDX-License-Identifier: Apache-2.0
//! Exposure as JSON.

use std::{collections::BTreeMap, sync::Arc};

use policy_compiler::{
    exposure::{Audience, Door, Newcomer, Passage, Reach, Way},
    model::{PodKey, Protocol},
    partial::Evaluator,
};
use serde::Serialize;

use super::{Subject, word};
use crate::{
    API_VERSION,
    answer::{At, Decided, PortsJson, Word, ports_json},
};

/// The answer.
#[derive(Serialize)]
pub struct ExposureJson {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    workloads: Vec<SubjectJson>,
}

/// One workload.
#[derive(Serialize)]
pub struct SubjectJson {
    workload: String,
    world: AudiencesJson<String>,
    nodes: AudiencesJson<String>,
    cluster: AudiencesJson<String>,
    future: AudiencesJson<NewcomerJson>,
    through: Vec<DoorJson>,
    way_in: Option<WayJson>,
}

#[derive(Serialize)]
struct AudiencesJson<W> {
    verdict: &'static str,
    from: Vec<AudienceJson<W>>,
    /// Why nothing is known of anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize)]
struct AudienceJson<W> {
    who: Vec<W>,
    verdict: &'static str,
    allowed: PortsJson,
    sometimes: PortsJson,
    unknown: PortsJson,
    missing: Vec<String>,
    decided_by: Vec<Decided>,
}

#[derive(Serialize)]
struct NewcomerJson {
    description: String,
    namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespace_labels: BTreeMap<Arc<str>, Arc<str>>,
    labels: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Serialize)]
struct DoorJson {
    door: &'static str,
    kind: Arc<str>,
    namespace: Option<Arc<str>>,
    name: Arc<str>,
    at: Option<At>,
    outside: bool,
    served_by: Option<Arc<str>>,
    service: Option<String>,
    hosts: Vec<Arc<str>>,
    protocol: Protocol,
    port: Option<u16>,
    target: Option<u16>,
    verdict: &'static str,
    missing: Vec<String>,
    barred: Option<String>,
}

#[derive(Serialize)]
struct WayJson {
    certain: bool,
    hops: Vec<HopJson>,
    cut_points: Vec<Vec<String>>,
}

#[derive(Serialize)]
struct HopJson {
    to: Vec<String>,
    ports: PortsJson,
}

impl ExposureJson {
    /// The answer for several workloads.
    pub fn of(evaluator: &Evaluator<'_>, subjects: &[Subject]) -> Self {
        let workloads = subjects.iter().map(|it| SubjectJson::of(evaluator, it));
        Self {
            api_version: API_VERSION,
            kind: "Exposure",
            workloads: workloads.collect(),
        }
    }
}

impl SubjectJson {
    /// The answer for one workload.
    pub fn of(evaluator: &Evaluator<'_>, subject: &Subject) -> Self {
        let exposure = &subject.exposure;
        let pod = |key: &PodKey| key.to_string();
        Self {
            workload: subject.name.clone(),
            world: audiences(evaluator, &exposure.world, ToString::to_string),
            nodes: audiences(evaluator, &exposure.nodes, |name| format!("node:{name}")),
            cluster: audiences(evaluator, &exposure.cluster, pod),
            future: match &exposure.future {
                Ok(future) => audiences(evaluator, future, newcomer),
                Err(error) => AudiencesJson {
                    verdict: Word::Unknown.as_str(),
                    from: Vec::new(),
                    missing: Some(error.to_string()),
                },
            },
            through: exposure.doors.iter().map(door).collect(),
            way_in: subject.way.as_ref().map(way),
        }
    }
}

fn audiences<W, J>(
    evaluator: &Evaluator<'_>,
    all: &[Audience<W>],
    who: impl Fn(&W) -> J,
) -> AudiencesJson<J> {
    let from: Vec<AudienceJson<J>> = all
        .iter()
        .map(|them| {
            let Reach {
                always,
                sometimes,
                unknown,
                missing,
            } = &them.reach;
            let because = them.because.iter();
            AudienceJson {
                who: them.who.iter().map(&who).collect(),
                verdict: word(&them.reach).as_str(),
                allowed: ports_json(always),
                sometimes: ports_json(sometimes),
                unknown: ports_json(unknown),
                missing: missing.clone(),
                decided_by: because
                    .map(|part| {
                        Decided::new(evaluator, part.direction, &part.ports, &part.decision)
                    })
                    .collect(),
            }
        })
        .collect();
    // Where nobody is, nobody gets through.
    let verdict = if all.is_empty() {
        Word::Denied
    } else {
        Word::of_all(all.iter().map(|them| word(&them.reach)))
    };
    AudiencesJson {
        verdict: verdict.as_str(),
        from,
        missing: None,
    }
}

fn newcomer(newcomer: &Newcomer) -> NewcomerJson {
    NewcomerJson {
        description: newcomer.words.clone(),
        namespace: newcomer.namespace.clone(),
        namespace_labels: (*newcomer.namespace_labels.0).clone(),
        labels: (*newcomer.labels.0).clone(),
    }
}

fn door(door: &Door) -> DoorJson {
    DoorJson {
        door: door.kind.name(),
        kind: door.object.kind.clone(),
        namespace: door.object.namespace.clone(),
        name: door.object.name.clone(),
        at: door.at.as_ref().map(At::from),
        outside: door.kind.is_outer(),
        served_by: door.served_by.clone(),
        service: door.service.as_ref().map(|service| {
            let namespace = service.namespace.as_deref().unwrap_or_default();
            format!("{namespace}/{}", service.name)
        }),
        hosts: door.hosts.clone(),
        protocol: door.protocol,
        port: door.port,
        target: door.target,
        verdict: passage_name(door),
        missing: match &door.passage {
            Passage::Unknown(facts) if door.barred.is_none() => facts.clone(),
            Passage::Unknown(_) | Passage::Open | Passage::Partly | Passage::Closed => Vec::new(),
        },
        barred: door.barred.clone(),
    }
}

/// One of the four verdicts.
pub(super) fn passage_name(door: &Door) -> &'static str {
    let word = match &door.passage {
        _ if door.barred.is_some() => Word::Denied,
        Passage::Open => Word::Allowed,
        Passage::Partly => Word::Partial,
        Passage::Closed => Word::Denied,
        Passage::Unknown(_) => Word::Unknown,
    };
    word.as_str()
}

fn way(way: &Way) -> WayJson {
    let names = |pods: &[PodKey]| pods.iter().map(ToString::to_string).collect();
    WayJson {
        certain: way.certain,
        hops: way
            .hops
            .iter()
            .map(|hop| HopJson {
                to: names(&hop.to),
                ports: ports_json(&hop.ports),
            })
            .collect(),
        cut_points: way.cut_points.iter().map(|cut| names(cut)).collect(),
    }
}
