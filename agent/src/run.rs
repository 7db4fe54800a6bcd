// SPDX-License-Identifier: Apache-2.0
//! How does each command start and end?

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{
        Args, Attach, CleanupArgs, CniArgs, Command, DatapathArgs, DemoArgs, Established,
        LocalNodeEgress, Output, RunArgs,
    },
    cni::{self, install::Installed},
    datapath::{self, Attachment, Switches},
    demo::{self, Root, topology::Topology},
    engine,
    folder::{self, Running, Status},
    inspect,
    kernel::Kernel,
    kubernetes,
    net::Netns,
    telemetry,
};

/// What was asked for does not hold.
const DIFFERS: u8 = 1;
/// It could not be done.
const FAILED: u8 = 2;
/// Ended by SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;
/// How long nodes may take to enforce before the demo gives up.
const SETTLE: Duration = Duration::from_mins(1);

/// Runs the command and reports how it went: 0 as asked for, 1 if what was to be shown does not hold,
/// 2 if it could not be done.
pub fn run(args: &Args) -> ExitCode {
    let quiet = matches!(args.command, Command::Demo(_));
    let filter = args.log.as_deref();
    let filter = filter.unwrap_or(if quiet { "warn" } else { "info" });
    let _telemetry = telemetry::init(args.log_format, filter);
    let result = match &args.command {
        Command::Run(args) => enforce(args),
        Command::Demo(args) => demonstrate(args),
        Command::Cni => Ok(cni::plugin::run()),
        Command::Cleanup(args) => cleanup(args),
        Command::Dump(args) => inspect::dump(args).and_then(|text| print(&text)),
        Command::Explain(args) => inspect::answer(args, false).and_then(|text| print(&text)),
        Command::Trace(args) => inspect::answer(args, true).and_then(|text| print(&text)),
        Command::Version => print(&format!("netpol-agent {}\n", env!("CARGO_PKG_VERSION"))),
    };
    result.unwrap_or_else(|error| refuse(&error))
}

/// Says why nothing could be done.
pub fn refuse(error: &anyhow::Error) -> ExitCode {
    anstream::eprintln!("error: {error:#}");
    ExitCode::from(FAILED)
}

fn enforce(args: &RunArgs) -> Result<ExitCode> {
    let Some(dir) = &args.dir else {
        return kubernetes::command::run(args);
    };
    let host = Netns::current().context("cannot open the machine's network namespace")?;
    let mut options = options(dir, &args.node, &args.netns_dir, &args.datapath);
    options.cni_socket = Some(args.cni.cni_socket.clone());
    let running = folder::start(&host, options, kernel(&args.datapath))?;
    let _installed = install(&args.cni)?;
    wait_for_signal()?;
    drop(running);
    Ok(ExitCode::SUCCESS)
}

/// Installs the network plugin if that is wanted; after the agent has begun to answer it.
pub fn install(args: &CniArgs) -> Result<Option<Installed>> {
    let install = args.cni_install;
    install
        .then(|| Installed::start(&args.folders, &args.cni_socket))
        .transpose()
}

fn cleanup(args: &CleanupArgs) -> Result<ExitCode> {
    // First: without an agent no pod would begin.
    cni::install::remove(&args.folders)?;
    datapath::cleanup(&args.place.bpffs)?;
    match std::fs::remove_dir_all(&args.place.state_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let dir = args.place.state_dir.display();
            Err(error).with_context(|| format!("cannot remove `{dir}`"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn demonstrate(args: &DemoArgs) -> Result<ExitCode> {
    let loaded = folder::load(&args.dir)?;
    let root = Arc::new(Root::claim(&args.root)?);
    // Whoever ends first cleans up: the demo by dropping the folder, a signal by closing it.
    let owned = Arc::downgrade(&root);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if wait_for_signal().is_ok() {
                if let Some(root) = owned.upgrade() {
                    let _ = root.close();
                }
                std::process::exit(INTERRUPTED);
            }
        })?;

    let matrix = demo::run(&root, &loaded.snapshot, |topology| {
        if args.no_enforcement {
            Ok(Vec::new())
        } else {
            enforce_everywhere(&root, topology, args)
        }
    })?;
    match args.output {
        Output::Json => print(&format!("{:#}\n", demo::render::json(&matrix)))?,
        Output::Text => print(&demo::render::text(&matrix, args.verbose))?,
    };
    Ok(match matrix.differing().next() {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(DIFFERS),
    })
}

/// Runs an agent on every node of the demo, as `run --dir` would, and waits until all are settled.
fn enforce_everywhere(root: &Root, topology: &Topology, args: &DemoArgs) -> Result<Vec<Running>> {
    let mut agents = Vec::new();
    for (node, namespace) in &topology.nodes {
        let datapath = DatapathArgs {
            bpffs: root.bpf(node)?,
            state_dir: root.state(node),
            attach: args.attach,
            events_per_second: 0,
            ..DatapathArgs::default()
        };
        let mut options = options(&args.dir, node, &root.dir(Root::PODS), &datapath);
        options.settings.fresh = true;
        let agent = folder::start(namespace, options, kernel(&datapath))
            .with_context(|| format!("cannot start the agent of node `{node}`"))?;
        agents.push(agent);
    }
    for (agent, node) in agents.iter().zip(topology.nodes.keys()) {
        if let Err(status) = agent.wait(SETTLE, Status::is_settled) {
            bail!("node `{node}` does not enforce: {status:?}");
        }
    }
    Ok(agents)
}

fn options(dir: &Path, node: &str, netns_dir: &Path, args: &DatapathArgs) -> folder::Options {
    folder::Options {
        dir: dir.to_owned(),
        node: node.to_owned(),
        netns_dir: netns_dir.to_owned(),
        local_node_egress: args.local_node_egress == LocalNodeEgress::Allow,
        service_cidrs: args.service_cidr.clone(),
        settings: engine::Settings {
            audit: args.audit,
            ..engine::Settings::default()
        },
        state_dir: Some(args.state_dir.clone()),
        cni_socket: None,
    }
}

/// Opens the datapath as the command line says; to be called in the node's network namespace.
pub fn kernel(args: &DatapathArgs) -> impl FnOnce() -> Result<Kernel> + Send + 'static {
    let options = datapath::Options {
        root: args.bpffs.clone(),
        attachment: match args.attach {
            Attach::Auto => None,
            Attach::Clsact => Some(Attachment::Clsact),
            Attach::Tcx => Some(Attachment::Tcx),
        },
        switches: Switches {
            audit: args.audit,
            allow_events: args.allow_events,
            strict_tcp: args.strict_tcp,
            keep_established: args.established == Established::Keep,
            events_per_second: args.events_per_second,
            ..Switches::default()
        },
        ..datapath::Options::default()
    };
    move || Kernel::open(&options)
}

/// Blocks until the process is asked to end.
fn wait_for_signal() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

/// Writes the answer; a reader that has seen enough is no error.
fn print(text: &str) -> Result<ExitCode> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the answer")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
