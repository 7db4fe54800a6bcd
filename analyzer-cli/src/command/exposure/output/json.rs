// SPDX-License-Identifier: Apache-2.0
//! Exposure as JSON: audiences by number, or everybody by name.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    rc::Rc,
    sync::Arc,
};

use policy_compiler::{
    exposure::{Audience, Because, Door, Members, Newcomer, Passage, Reach, Way},
    model::{PodKey, Protocol},
};
use serde::{Serialize, Serializer};

use super::{super::Subject, Answer, word};
use crate::{
    API_VERSION, Io,
    answer::{At, Decided, PortsJson, Word, ports_json},
};

/// The answer.
#[derive(Serialize)]
struct ExposureJson<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    lists: Option<ListsJson<'a>>,
    workloads: Entries<'a>,
}

/// What audiences and reasons are numbers of.
#[derive(Serialize)]
struct ListsJson<'a> {
    classes: Vec<ListJson<Vec<String>>>,
    ranges: Vec<ListJson<Vec<String>>>,
    newcomers: Vec<NumberedJson<NewcomerJson>>,
    reasons: Reasons<'a>,
}

#[derive(Serialize)]
struct ListJson<M> {
    id: usize,
    members: M,
}

#[derive(Serialize)]
struct NumberedJson<T> {
    id: usize,
    #[serde(flatten)]
    value: T,
}

/// The entries, each made when it is written.
struct Entries<'a> {
    answer: &'a Answer<'a>,
    numbers: &'a Numbers,
}

/// The reasons, each made when it is written.
struct Reasons<'a> {
    answer: &'a Answer<'a>,
    list: &'a [Rc<Because>],
}

/// One entry.
#[derive(Serialize)]
struct SubjectJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<String>>,
    world: AudiencesJson,
    nodes: AudiencesJson,
    cluster: AudiencesJson,
    future: AudiencesJson,
    through: Vec<DoorJson>,
    way_in: Option<WayJson>,
}

#[derive(Serialize)]
struct AudiencesJson {
    verdict: &'static str,
    from: Vec<AudienceJson>,
    /// Why nothing is known of anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize)]
struct AudienceJson {
    #[serde(flatten)]
    who: WhoJson,
    verdict: &'static str,
    allowed: PortsJson,
    sometimes: PortsJson,
    unknown: PortsJson,
    missing: Vec<String>,
    decided_by: DecidedJson,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WhoJson {
    Named {
        who: Vec<String>,
    },
    New {
        who: Vec<NewcomerJson>,
    },
    Ranges {
        ranges: Vec<usize>,
    },
    Pods {
        classes: Vec<usize>,
        /// Classes whose members but the workload's own pod are meant.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        others_of: Vec<usize>,
        count: usize,
    },
    Newcomers {
        newcomers: Vec<usize>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum DecidedJson {
    Full(Vec<Decided>),
    Numbers(Vec<usize>),
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
    cut_points: Vec<ClassJson>,
}

#[derive(Serialize)]
struct HopJson {
    to: ClassJson,
    ports: PortsJson,
}

/// A class of pods.
#[derive(Serialize)]
#[serde(untagged)]
enum ClassJson {
    Number(usize),
    Named(Vec<String>),
}

/// The numbers of what entries refer to, in the order in which they do. Equal ones are one object.
#[derive(Default)]
struct Numbers {
    reasons: Numbered<Because>,
    newcomers: Numbered<Newcomer>,
}

struct Numbered<T> {
    list: Vec<Rc<T>>,
    numbers: HashMap<*const T, usize>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T> Numbered<T>
where
    *const T: Hash + Eq,
{
    fn add(&mut self, value: &Rc<T>) {
        let next = self.list.len();
        if *self.numbers.entry(Rc::as_ptr(value)).or_insert(next) == next {
            self.list.push(value.clone());
        }
    }

    fn of(&self, values: &[Rc<T>]) -> Vec<usize> {
        let numbers = values
            .iter()
            .map(|value| self.numbers.get(&Rc::as_ptr(value)));
        numbers.flatten().copied().collect()
    }
}

impl Numbers {
    fn of(subjects: &[Subject]) -> Self {
        let mut numbers = Self::default();
        for subject in subjects {
            let seen = &subject.exposure.seen;
            let future = seen.future.as_ref().map_or(&[][..], Vec::as_slice);
            let because = seen.world.iter().map(|them| &them.because);
            let because = because.chain(subject.exposure.nodes.iter().map(|them| &them.because));
            let because = because.chain(seen.cluster.iter().map(|them| &them.because));
            let because = because.chain(future.iter().map(|them| &them.because));
            for reason in because.flat_map(|because| because.iter()) {
                numbers.reasons.add(reason);
            }
            for newcomer in future.iter().flat_map(|them| &them.who) {
                numbers.newcomers.add(newcomer);
            }
        }
        numbers
    }
}

impl Answer<'_> {
    /// Writes one document.
    pub(super) fn write_json(&self, io: &Io<'_>) -> anyhow::Result<()> {
        let numbers = self.numbers();
        let mut out = io.sink()?;
        serde_json::to_writer(&mut out, &self.json(&numbers))?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    /// Writes one YAML document.
    pub(super) fn write_yaml(&self, io: &Io<'_>) -> anyhow::Result<()> {
        io.yaml(&self.json(&self.numbers()))
    }

    /// Writes a line per entry.
    pub(super) fn write_lines(&self, io: &Io<'_>) -> anyhow::Result<()> {
        let numbers = self.numbers();
        let mut out = io.sink()?;
        for subject in self.subjects {
            serde_json::to_writer(&mut out, &self.subject(subject, &numbers))?;
            writeln!(out)?;
        }
        Ok(out.flush()?)
    }

    fn numbers(&self) -> Numbers {
        if self.expand {
            Numbers::default()
        } else {
            Numbers::of(self.subjects)
        }
    }

    fn json<'s>(&'s self, numbers: &'s Numbers) -> ExposureJson<'s> {
        ExposureJson {
            api_version: API_VERSION,
            kind: "Exposure",
            lists: (!self.expand).then(|| self.lists(numbers)),
            workloads: Entries {
                answer: self,
                numbers,
            },
        }
    }

    fn lists<'s>(&'s self, numbers: &'s Numbers) -> ListsJson<'s> {
        let classes = self.analysis.classes().enumerate();
        let ranges = self.analysis.ranges().enumerate();
        let newcomers = numbers.newcomers.list.iter().enumerate();
        ListsJson {
            classes: classes
                .map(|(id, pods)| ListJson {
                    id,
                    members: names(pods),
                })
                .collect(),
            ranges: ranges
                .map(|(id, range)| ListJson {
                    id,
                    members: range.networks.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            newcomers: newcomers
                .map(|(id, one)| NumberedJson {
                    id,
                    value: newcomer(one),
                })
                .collect(),
            reasons: Reasons {
                answer: self,
                list: &numbers.reasons.list,
            },
        }
    }

    fn subject(&self, subject: &Subject, numbers: &Numbers) -> SubjectJson {
        let (exposure, seen) = (&subject.exposure, &subject.exposure.seen);
        let world = |them: &Audience<usize>| {
            if self.expand {
                let networks = self.networks(them);
                WhoJson::Named {
                    who: networks.iter().map(ToString::to_string).collect(),
                }
            } else {
                WhoJson::Ranges {
                    ranges: them.who.clone(),
                }
            }
        };
        let nodes = |them: &Audience<Arc<str>>| WhoJson::Named {
            who: them.who.iter().map(|name| format!("node:{name}")).collect(),
        };
        let future = |them: &Audience<Rc<Newcomer>>| {
            if self.expand {
                WhoJson::New {
                    who: them.who.iter().map(|one| newcomer(one)).collect(),
                }
            } else {
                WhoJson::Newcomers {
                    newcomers: numbers.newcomers.of(&them.who),
                }
            }
        };
        SubjectJson {
            workload: subject.names.first().filter(|_| self.expand).cloned(),
            members: (!self.expand).then(|| subject.names.clone()),
            world: self.audiences(&seen.world, numbers, world),
            nodes: self.audiences(&exposure.nodes, numbers, nodes),
            cluster: self.audiences(&seen.cluster, numbers, |them| self.pods(subject, them)),
            future: match &seen.future {
                Ok(all) => self.audiences(all, numbers, future),
                Err(error) => AudiencesJson {
                    verdict: Word::Unknown.as_str(),
                    from: Vec::new(),
                    missing: Some(error.to_string()),
                },
            },
            through: exposure.doors.iter().map(door).collect(),
            way_in: subject.way.as_ref().map(|way| self.way(way)),
        }
    }

    fn pods(&self, subject: &Subject, them: &Audience<Members>) -> WhoJson {
        if self.expand {
            let who = them.who.iter();
            let pods = who.flat_map(|members| subject.pods(self.analysis, *members));
            return WhoJson::Named {
                who: pods.map(ToString::to_string).collect(),
            };
        }
        let (mut classes, mut others_of) = (Vec::new(), Vec::new());
        let mut count = 0;
        for members in &them.who {
            let all = self.analysis.members(members.class()).len();
            match members {
                Members::All(class) => {
                    classes.push(*class);
                    count += all;
                }
                Members::Others(class) => {
                    others_of.push(*class);
                    count += all.saturating_sub(1);
                }
            }
        }
        WhoJson::Pods {
            classes,
            others_of,
            count,
        }
    }

    fn audiences<W>(
        &self,
        all: &[Audience<W>],
        numbers: &Numbers,
        who: impl Fn(&Audience<W>) -> WhoJson,
    ) -> AudiencesJson {
        let from = all.iter().map(|them| {
            let Reach {
                always,
                sometimes,
                unknown,
                missing,
            } = &*them.reach;
            AudienceJson {
                who: who(them),
                verdict: word(&them.reach).as_str(),
                allowed: ports_json(always),
                sometimes: ports_json(sometimes),
                unknown: ports_json(unknown),
                missing: missing.clone(),
                decided_by: if self.expand {
                    let because = them.because.iter();
                    DecidedJson::Full(because.map(|part| self.decided(part)).collect())
                } else {
                    DecidedJson::Numbers(numbers.reasons.of(&them.because))
                },
            }
        });
        // Where nobody is, nobody gets through.
        let verdict = if all.is_empty() {
            Word::Denied
        } else {
            Word::of_all(all.iter().map(|them| word(&them.reach)))
        };
        AudiencesJson {
            verdict: verdict.as_str(),
            from: from.collect(),
            missing: None,
        }
    }

    fn decided(&self, part: &Because) -> Decided {
        Decided::new(self.evaluator, part.direction, &part.ports, &part.decision)
    }

    fn way(&self, way: &Way) -> WayJson {
        let class = |class: usize| {
            if self.expand {
                ClassJson::Named(names(self.analysis.members(class)))
            } else {
                ClassJson::Number(class)
            }
        };
        let hops = way.hops.iter().map(|hop| HopJson {
            to: class(hop.to),
            ports: ports_json(&hop.ports),
        });
        WayJson {
            certain: way.certain,
            hops: hops.collect(),
            cut_points: way.cut_points.iter().copied().map(class).collect(),
        }
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { answer, numbers } = self;
        let subjects = answer.subjects.iter();
        serializer.collect_seq(subjects.map(|subject| answer.subject(subject, numbers)))
    }
}

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbered = self.list.iter().enumerate();
        serializer.collect_seq(numbered.map(|(id, part)| NumberedJson {
            id,
            value: self.answer.decided(part),
        }))
    }
}

fn names(pods: &[PodKey]) -> Vec<String> {
    pods.iter().map(ToString::to_string).collect()
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
