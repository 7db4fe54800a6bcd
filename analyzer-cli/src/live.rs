// SPDX-License-Identifier: Apache-2.0
//! What does the cluster hold that decides about traffic?

use anyhow::Context;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{args::InputArgs, exit::UsageError, load::Source};

/// Lists everything that decides, one source per kind.
pub fn read(args: &InputArgs) -> anyhow::Result<Vec<Source>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the network client")?;
    runtime.block_on(list_all(args))
}

async fn list_all(args: &InputArgs) -> anyhow::Result<Vec<Source>> {
    let client = client(args).await?;
    let mut sources = vec![
        core::<Namespace>(&client, "v1", "Namespace").await?,
        core::<Node>(&client, "v1", "Node").await?,
        core::<Pod>(&client, "v1", "Pod").await?,
        core::<Service>(&client, "v1", "Service").await?,
        core::<EndpointSlice>(&client, "discovery.k8s.io/v1", "EndpointSlice").await?,
        core::<NetworkPolicy>(&client, "networking.k8s.io/v1", "NetworkPolicy").await?,
    ];
    for (version, kind) in [
        ("v1alpha1", "AdminNetworkPolicy"),
        ("v1alpha1", "BaselineAdminNetworkPolicy"),
        ("v1alpha2", "ClusterNetworkPolicy"),
    ] {
        sources.extend(policies(&client, version, kind).await?);
    }
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

/// Lists a kind that every cluster has. Without permission nothing can be answered, because what is
/// missing could decide anything.
async fn core<K>(client: &Client, api_version: &str, kind: &str) -> anyhow::Result<Source>
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug + kube::Resource<DynamicType = ()>,
{
    let list = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let list = list.map_err(|error| refused(kind, &error))?;
    let items = list
        .items
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>()?;
    source(api_version, kind, items)
}

/// Lists a kind of policy that may not be installed.
async fn policies(client: &Client, version: &str, kind: &str) -> anyhow::Result<Option<Source>> {
    let gvk = GroupVersionKind::gvk("policy.networking.k8s.io", version, kind);
    let resource = ApiResource::from_gvk(&gvk);
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(refused(kind, &error).into()),
    };
    let items = list
        .items
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>()?;
    let api_version = format!("policy.networking.k8s.io/{version}");
    source(&api_version, kind, items).map(Some)
}

fn refused(kind: &str, error: &kube::Error) -> UsageError {
    UsageError::new(format!("cannot list {kind}: {error}"))
        .help("without them every verdict would be unknown; the user needs `list` on the kind in all namespaces")
}

fn source(api_version: &str, kind: &str, items: Vec<Value>) -> anyhow::Result<Source> {
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            if let Some(object) = item.as_object_mut() {
                object.insert("apiVersion".to_owned(), json!(api_version));
                object.insert("kind".to_owned(), json!(kind));
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            }
            item
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    Ok(Source {
        name: format!("live:{kind}"),
        text: serde_json::to_string_pretty(&list)?,
    })
}
