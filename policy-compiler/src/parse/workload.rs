// SPDX-License-Identifier: Apache-2.0
//! Objects that controllers make pods of.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{
    Parsed, Settings, Template,
    meta::Frame,
    pod::template,
    reader::{Fields, Reader},
    syntax,
};
use crate::{diagnostic::Location, manifest::Locator};

/// The kinds whose controllers make pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// batch
    CronJob,
    /// apps
    DaemonSet,
    /// apps
    Deployment,
    /// apps.openshift.io
    DeploymentConfig,
    /// batch
    Job,
    /// apps
    ReplicaSet,
    /// core
    ReplicationController,
    /// argoproj.io
    Rollout,
    /// apps
    StatefulSet,
}

impl WorkloadKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::CronJob,
        Self::DaemonSet,
        Self::Deployment,
        Self::DeploymentConfig,
        Self::Job,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::Rollout,
        Self::StatefulSet,
    ];

    /// The kind called `name`, `Deployment`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What manifests call the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CronJob => "CronJob",
            Self::DaemonSet => "DaemonSet",
            Self::Deployment => "Deployment",
            Self::DeploymentConfig => "DeploymentConfig",
            Self::Job => "Job",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::Rollout => "Rollout",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A workload, trimmed to what its pods get from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Kind of the object.
    pub kind: WorkloadKind,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The workload that made this one (`kind`, `name`): the Deployment of a ReplicaSet, the CronJob of
    /// a Job.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// `spec.replicas` or `spec.parallelism`, 1 if absent; 1 for kinds that have neither.
    pub replicas: u32,
    /// `spec.ordinals.start` of a StatefulSet.
    pub first_ordinal: u32,
    /// `spec.template`; of a CronJob, that of its jobs.
    pub template: Template,
    /// The workload whose template it uses instead (`kind`, `name`): `spec.workloadRef` of a Rollout.
    pub template_of: Option<(Arc<str>, Arc<str>)>,
    /// Where the object is written.
    pub at: Option<Location>,
}

/// Reads a workload. Only what policies see of its pods is checked.
pub fn workload(
    kind: WorkloadKind,
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<Workload> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: kind.name(),
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_subdomain,
        closed: false,
    };
    let (fields, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let mut workload = Workload {
        kind,
        namespace: meta.namespace,
        name: meta.name,
        owner: meta.owner,
        replicas: 1,
        first_ordinal: 0,
        template: Template::default(),
        template_of: None,
        at: r.here(),
    };
    if let Some(fields) = fields {
        r.field(&fields, "spec", |r, value| match kind {
            WorkloadKind::CronJob => job_template(r, value, &mut workload),
            WorkloadKind::DaemonSet
            | WorkloadKind::Deployment
            | WorkloadKind::DeploymentConfig
            | WorkloadKind::Job
            | WorkloadKind::ReplicaSet
            | WorkloadKind::ReplicationController
            | WorkloadKind::Rollout
            | WorkloadKind::StatefulSet => spec(r, value, &mut workload),
        });
    }
    r.finish(Some(workload))
}

fn job_template<'a>(r: &mut Reader<'a>, value: &'a Value, workload: &mut Workload) -> Option<()> {
    let fields = r.open_object(value, &["jobTemplate"])?;
    r.field(&fields, "jobTemplate", |r, value| {
        let fields = r.open_object(value, &["spec"])?;
        r.field(&fields, "spec", |r, value| spec(r, value, workload))?
    })?
}

fn spec<'a>(r: &mut Reader<'a>, value: &'a Value, workload: &mut Workload) -> Option<()> {
    let fields = r.open_object(
        value,
        &[
            "replicas",
            "parallelism",
            "ordinals",
            "template",
            "workloadRef",
        ],
    )?;
    let count = match workload.kind {
        WorkloadKind::CronJob | WorkloadKind::Job => Some("parallelism"),
        WorkloadKind::DaemonSet => None,
        WorkloadKind::Deployment
        | WorkloadKind::DeploymentConfig
        | WorkloadKind::ReplicaSet
        | WorkloadKind::ReplicationController
        | WorkloadKind::Rollout
        | WorkloadKind::StatefulSet => Some("replicas"),
    };
    if let Some(name) = count {
        workload.replicas = number(r, &fields, name).unwrap_or(1);
    }
    if workload.kind == WorkloadKind::StatefulSet {
        let start = r.field(&fields, "ordinals", |r, value| {
            let fields = r.open_object(value, &["start"])?;
            number(r, &fields, "start")
        });
        workload.first_ordinal = start.flatten().unwrap_or_default();
    }
    let template = r.field(&fields, "template", template);
    let template = template.flatten();
    if workload.kind == WorkloadKind::Rollout && template.is_none() {
        workload.template_of = r.field(&fields, "workloadRef", borrowed).flatten();
    }
    workload.template = template.unwrap_or_default();
    Some(())
}

fn borrowed<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<(Arc<str>, Arc<str>)> {
    let fields = r.open_object(value, &["apiVersion", "kind", "name"])?;
    let kind = r.field(&fields, "kind", Reader::string).flatten()?;
    let name = r.field(&fields, "name", Reader::string).flatten()?;
    Some((kind.into(), name.into()))
}

fn number<'a>(r: &mut Reader<'a>, fields: &Fields<'a>, name: &'static str) -> Option<u32> {
    r.field(fields, name, |r, value| {
        let number = r.integer(value)?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            r.reject(format!("`{number}` is not a number of pods"));
        }
        count
    })?
}
