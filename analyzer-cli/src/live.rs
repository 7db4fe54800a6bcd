// SPDX-License-Identifier: Apache-2.0
//! What does the cluster hold that decides about traffic?

use anyhow::Context;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    args::InputArgs,
    exit::UsageError,
    load::{Listing, Source, Unlisted},
};

/// Lists everything that decides, one source per kind, and one that says what could not be listed.
///
/// `-n NS` without `-A` lists only what lives in that namespace, beside what lives in none.
pub fn read(args: &InputArgs) -> anyhow::Result<Vec<Source>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the network client")?;
    runtime.block_on(list_all(args))
}

async fn list_all(args: &InputArgs) -> anyhow::Result<Vec<Source>> {
    let client = client(args).await?;
    let namespace = args.namespace.as_deref().filter(|_| !args.all_namespaces);
    let mut listing = Listing {
        namespace: namespace.map(str::to_owned),
        unlisted: Vec::new(),
    };
    let mut sources = Vec::new();
    let leading = ENTRANCES.iter().filter(|_| args.entrances);
    for kind in KINDS.iter().chain(leading) {
        match kind.list(&client, namespace).await {
            Ok(items) => sources.push(kind.source(items)?),
            Err(kube::Error::Api(status)) if status.code == 404 && !kind.is_core => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                listing.unlisted.push(Unlisted {
                    kind: kind.name.to_owned(),
                    reason: status.message,
                });
            }
            Err(error) => {
                let kind = kind.name;
                return Err(UsageError::new(format!("cannot list {kind}: {error}")).into());
            }
        }
    }
    sources.push(Source {
        name: "live:Listing".to_owned(),
        text: serde_json::to_string_pretty(&listing.document())?,
    });
    Ok(sources)
}

async fn client(args: &InputArgs) -> anyhow::Result<Client> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read kubeconfig `{}`", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await?
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    };
    Client::try_from(config).context("cannot use the kubeconfig")
}

/// A kind of object that decides.
struct Kind {
    group: &'static str,
    version: &'static str,
    name: &'static str,
    is_namespaced: bool,
    /// Every cluster has it; other kinds may not be installed, and then there is none of them.
    is_core: bool,
}

impl Kind {
    const fn core(group: &'static str, name: &'static str, is_namespaced: bool) -> Self {
        Self {
            group,
            version: "v1",
            name,
            is_namespaced,
            is_core: true,
        }
    }

    const fn gateway(version: &'static str, name: &'static str) -> Self {
        Self {
            group: "gateway.networking.k8s.io",
            version,
            name,
            is_namespaced: true,
            is_core: false,
        }
    }

    const fn policy(version: &'static str, name: &'static str) -> Self {
        Self {
            group: "policy.networking.k8s.io",
            version,
            name,
            is_namespaced: false,
            is_core: false,
        }
    }

    /// The objects, with every field that the server has, known here or not.
    async fn list(
        &self,
        client: &Client,
        namespace: Option<&str>,
    ) -> Result<Vec<DynamicObject>, kube::Error> {
        let gvk = GroupVersionKind::gvk(self.group, self.version, self.name);
        let resource = ApiResource::from_gvk(&gvk);
        let everything: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match namespace {
            // One namespace may be readable to somebody who may not list them.
            Some(namespace) if self.name == "Namespace" => {
                everything.get(namespace).await.map(|found| vec![found])
            }
            Some(namespace) if self.is_namespaced => {
                let own: Api<DynamicObject> =
                    Api::namespaced_with(client.clone(), namespace, &resource);
                own.list(&ListParams::default())
                    .await
                    .map(|list| list.items)
            }
            _ => {
                let list = everything.list(&ListParams::default()).await;
                list.map(|list| list.items)
            }
        }
    }

    /// The objects as a manifest: items of lists do not say what they are.
    fn source(&self, items: Vec<DynamicObject>) -> anyhow::Result<Source> {
        let api_version = if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        };
        let mut objects = Vec::new();
        for mut item in items {
            item.metadata.managed_fields = None;
            let mut item = serde_json::to_value(item)?;
            if let Some(object) = item.as_object_mut() {
                object.insert("apiVersion".to_owned(), json!(api_version));
                object.insert("kind".to_owned(), json!(self.name));
            }
            objects.push(item);
        }
        let list: Value = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        Ok(Source {
            name: format!("live:{}", self.name),
            text: serde_json::to_string_pretty(&list)?,
        })
    }
}

const KINDS: [Kind; 9] = [
    Kind::core("", "Namespace", false),
    Kind::core("", "Node", false),
    Kind::core("", "Pod", true),
    Kind::core("", "Service", true),
    Kind::core("discovery.k8s.io", "EndpointSlice", true),
    Kind::core("networking.k8s.io", "NetworkPolicy", true),
    Kind::policy("v1alpha1", "AdminNetworkPolicy"),
    Kind::policy("v1alpha1", "BaselineAdminNetworkPolicy"),
    Kind::policy("v1alpha2", "ClusterNetworkPolicy"),
];

/// What leads traffic to Services.
const ENTRANCES: [Kind; 8] = [
    Kind::core("networking.k8s.io", "Ingress", true),
    Kind::gateway("v1", "Gateway"),
    Kind::gateway("v1", "GRPCRoute"),
    Kind::gateway("v1", "HTTPRoute"),
    Kind::gateway("v1beta1", "ReferenceGrant"),
    Kind::gateway("v1alpha2", "TCPRoute"),
    Kind::gateway("v1alpha2", "TLSRoute"),
    Kind::gateway("v1alpha2", "UDPRoute"),
];
