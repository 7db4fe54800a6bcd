// SPDX-License-Identifier: Apache-2.0
//! How does `netpol-agent run` on Kubernetes start, reload and end?

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser as _;
use kube::{
    Config as ClientConfig,
    config::{KubeConfigOptions, Kubeconfig},
};
use policy_compiler::snapshot::Options;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use super::{Config, Update, start};
use crate::{
    args::{Args, Command, LocalNodeEgress, RunArgs},
    config_file, engine,
    net::Netns,
    pods::Places,
    run::{install, kernel},
    status::writer::Pace,
    watch,
};

/// Follows the cluster until a signal ends it; leaves the kernel as it is then.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let host = Netns::current().context("cannot open the machine's network namespace")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = config(args);
        let client = super::client(client_config(args).await?, settings.watch.timeout)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut reload = signal(SignalKind::hangup())?;
        let running = start(&settings, &client, &host, kernel(&args.datapath))?;
        let _installed = install(&args.cni)?;
        // What is in force is not what the file says by now.
        let line = config_file::complete(std::env::args_os().collect())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = reload.recv() => match reread(&line) {
                    Ok(options) => running.update(Update::Options(options)).await,
                    Err(error) => tracing::error!("{error:#}; the settings in force stay"),
                },
            }
        }
        tracing::info!("ends; the kernel goes on enforcing");
        running.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn client_config(args: &RunArgs) -> Result<ClientConfig> {
    Ok(match &args.kubernetes.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            ClientConfig::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => ClientConfig::infer()
            .await
            .context("there is no way to the API server")?,
    })
}

fn config(args: &RunArgs) -> Config {
    let kubernetes = &args.kubernetes;
    let places = Places::default();
    let mut pinned = places.pinned;
    if !pinned.contains(&args.netns_dir) {
        pinned.push(args.netns_dir.clone());
    }
    Config {
        node: args.node.clone(),
        addresses: kubernetes.node_address.clone(),
        namespace: kubernetes.namespace.clone(),
        bundle: Some(kubernetes.bundle_dir.clone()),
        names: Some(args.datapath.state_dir.clone()),
        listen: Some(kubernetes.listen),
        debug_socket: Some(kubernetes.debug_socket.clone()),
        cni_socket: Some(args.cni.cni_socket.clone()),
        places: Places { pinned, ..places },
        watch: watch::Settings {
            streaming: kubernetes.streaming_lists,
            discovery: kubernetes.discovery(),
            ..watch::Settings::default()
        },
        options: options(args),
        settings: engine::Settings {
            audit: args.datapath.audit,
            ..engine::Settings::default()
        },
        pace: Pace {
            conditions: kubernetes.status(),
            ..Pace::default()
        },
        lease: kubernetes.lease(),
    }
}

fn options(args: &RunArgs) -> Options {
    Options {
        local_node_egress: args.datapath.local_node_egress == LocalNodeEgress::Allow,
        service_cidrs: args.datapath.service_cidr.clone(),
    }
}

/// The flags that take effect while the agent runs.
const LIVE: [&str; 2] = ["local-node-egress", "service-cidr"];

/// Reads the configuration file of an agent that was started with `line` again. Names the settings that
/// a running agent does not take up.
fn reread(line: &[OsString]) -> Result<Options> {
    let next = config_file::complete(std::env::args_os().collect())?;
    let changed = config_file::changed(line, &next)?;
    let (live, rest): (Vec<_>, Vec<_>) =
        (changed.into_iter()).partition(|flag| LIVE.contains(&flag.as_str()));
    tracing::info!(differs = ?live, "the configuration was read again");
    for flag in rest {
        tracing::warn!(
            "`{flag}` takes effect when the agent starts again, and stays as it is until then"
        );
    }
    match Args::try_parse_from(next)?.command {
        Command::Run(args) => Ok(options(&args)),
        _ => Err(anyhow!("the configuration is another command's")),
    }
}
