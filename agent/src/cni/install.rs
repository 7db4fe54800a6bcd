// SPDX-License-Identifier: Apache-2.0
//! How does the plugin get into the cluster's chain, and out of it again?
//!
//! The program goes where the runtime looks for plugins, and an entry at the end of the chain that the
//! runtime uses: the first configuration by name. Others write that file, too, so it is looked at again
//! whenever something in its folder changes. A file is replaced whole or left as it is.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use notify::{RecursiveMode, Watcher as _};
use serde_json::{Map, Value, json};

use super::{PLUGIN, SOCKET, spec};
use crate::folder::watcher;

/// Where runtimes look for plugins and for chains of them.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Folders {
    /// Where the container runtime looks for network plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Where the container runtime looks for network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
}

/// What a look at the configurations has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no configuration yet.
    Nothing,
    /// The plugin is in the chain of this file.
    There(PathBuf),
    /// The plugin was not in the chain of this file, and is now.
    Added(PathBuf),
}

/// Keeps the plugin installed until dropped; it stays installed then.
#[derive(Debug)]
pub struct Installed {
    wake: Sender<Wake>,
    _watcher: notify::RecommendedWatcher,
    thread: Option<JoinHandle<()>>,
}

enum Wake {
    Changed,
    Stop,
}

/// Changes that come within this time of each other are one change.
const CALM: Duration = Duration::from_millis(50);
/// How long a stream of changes may go on before the folder is looked at.
const LATEST: Duration = Duration::from_secs(1);
/// How often it is looked at without a change.
const REGULARLY: Duration = Duration::from_secs(30);

impl Installed {
    /// Installs this program as the plugin that asks the agent at `socket`, now and whenever somebody
    /// takes it out.
    ///
    /// # Errors
    ///
    /// The program cannot be copied, or the folder cannot be watched. A configuration that cannot be
    /// changed is none: it is told in the log and tried again.
    pub fn start(folders: &Folders, socket: &Path) -> Result<Self> {
        let (wake, woken) = channel();
        let conf = &folders.cni_conf_dir;
        fs::create_dir_all(conf).with_context(|| format!("cannot make `{}`", conf.display()))?;
        copy_program(&folders.cni_bin_dir)?;
        let changed = wake.clone();
        let mut watcher = watcher(move || {
            // Nobody listens only when the agent ends.
            let _ = changed.send(Wake::Changed);
        })?;
        watcher
            .watch(conf, RecursiveMode::NonRecursive)
            .with_context(|| format!("cannot watch `{}`", conf.display()))?;
        let (folders, socket) = (folders.clone(), socket.to_owned());
        let thread = thread::Builder::new()
            .name("cni-install".into())
            .spawn(move || keep(&folders, &socket, &woken))?;
        Ok(Self {
            wake,
            _watcher: watcher,
            thread: Some(thread),
        })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(folders: &Folders, socket: &Path, woken: &Receiver<Wake>) {
    let mut trouble = String::new();
    loop {
        let program = folders.cni_bin_dir.join(PLUGIN);
        let copied = if program.exists() {
            Ok(())
        } else {
            copy_program(&folders.cni_bin_dir)
        };
        match copied.and_then(|()| add(&folders.cni_conf_dir, socket)) {
            Ok(found) => {
                if let Found::Added(file) = &found {
                    let file = file.display();
                    tracing::info!(%file, "the network plugin is at the end of the chain");
                }
                trouble.clear();
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != trouble {
                    tracing::error!(error, "pods may begin before their interface is closed");
                }
                trouble = error;
            }
        }
        match woken.recv_timeout(REGULARLY) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            // Whoever writes several files, or one in pieces, is given time to.
            Ok(Wake::Changed) => {
                let since = Instant::now();
                while since.elapsed() < LATEST {
                    match woken.recv_timeout(CALM) {
                        Ok(Wake::Changed) => {}
                        Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                        Err(RecvTimeoutError::Timeout) => break,
                    }
                }
            }
        }
    }
}

/// Puts this program where runtimes find it as a plugin.
fn copy_program(folder: &Path) -> Result<()> {
    let (next, place) = (folder.join(format!(".{PLUGIN}")), folder.join(PLUGIN));
    // Whoever runs the old one goes on with it.
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy("/proc/self/exe", &next))
        .and_then(|_| fs::set_permissions(&next, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&next, &place))
        .with_context(|| format!("cannot copy the plugin to `{}`", place.display()))
}

/// Adds the plugin to the chain that the runtime uses, unless it is in it.
///
/// # Errors
///
/// The configuration is not one that a plugin can be added to, or it cannot be written.
pub fn add(folder: &Path, socket: &Path) -> Result<Found> {
    let files = files(folder)?;
    let Some(file) = files.first() else {
        return Ok(Found::Nothing);
    };
    let shown = file.display();
    let configuration = read(file)?;
    let is_chain = file.extension().is_some_and(|ending| ending == "conflist");
    let mut chain = if is_chain {
        configuration
    } else {
        chain_of_one(configuration).with_context(|| format!("`{shown}` cannot become a chain"))?
    };
    let version = chain["cniVersion"].as_str().unwrap_or_default().to_owned();
    if spec::known(&version).is_none() {
        bail!("`{shown}` is for version `{version}` of CNI, in which plugins cannot be chained");
    }
    let Some(plugins) = chain["plugins"].as_array_mut().filter(|p| !p.is_empty()) else {
        bail!("`{shown}` has no plugins");
    };
    // Anywhere behind the one that makes the interface will do: others may insist on the last place.
    if plugins.iter().skip(1).any(is_ours) {
        return Ok(Found::There(file.clone()));
    }
    plugins.retain(|plugin| !is_ours(plugin));
    let mut entry = json!({"type": PLUGIN});
    if socket != Path::new(SOCKET) {
        entry["socket"] = socket.to_string_lossy().into();
    }
    plugins.push(entry);
    if is_chain {
        write(file, file, &chain)?;
        return Ok(Found::Added(file.clone()));
    }
    let (list, saved) = (file.with_extension("conflist"), saved(file));
    if list.exists() && !saved.exists() {
        bail!(
            "`{shown}` cannot become a chain, because `{}` is there",
            list.display()
        );
    }
    write(file, &list, &chain)?;
    // The single plugin comes first by name, and must not be found any more.
    fs::rename(file, &saved).with_context(|| format!("cannot rename `{shown}`"))?;
    Ok(Found::Added(list))
}

/// Takes the plugin out of every chain, then the program away.
///
/// # Errors
///
/// A file cannot be written. The program stays where a chain may need it.
pub fn remove(folders: &Folders) -> Result<()> {
    let conf = &folders.cni_conf_dir;
    for file in files(conf)? {
        let mut chain = match read(&file) {
            Ok(chain) => chain,
            // No runtime can use it either.
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "left as it is");
                continue;
            }
        };
        let Some(plugins) = chain["plugins"].as_array_mut() else {
            continue;
        };
        let before = plugins.len();
        plugins.retain(|plugin| !is_ours(plugin));
        if plugins.len() == before {
            continue;
        }
        let single = file.with_extension("conf");
        if saved(&single).exists() {
            fs::rename(saved(&single), &single)
                .and_then(|()| fs::remove_file(&file))
                .with_context(|| format!("cannot put `{}` back", single.display()))?;
        } else {
            write(&file, &file, &chain)?;
        }
    }
    let program = folders.cni_bin_dir.join(PLUGIN);
    match fs::remove_file(&program) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", program.display()))
        }
        _ => Ok(()),
    }
}

/// The configurations of a folder in the order in which runtimes read them; none if there is no folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list `{}`", folder.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if let Some("conflist" | "conf" | "json") = ending {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Value> {
    let read = || Ok(serde_json::from_slice(&fs::read(file)?)?);
    let read: Result<Value> = read();
    read.with_context(|| format!("cannot read `{}`", file.display()))
}

/// The chain that has a single plugin, as runtimes take its configuration.
fn chain_of_one(configuration: Value) -> Result<Value> {
    let Value::Object(mut plugin) = configuration else {
        bail!("it is no object");
    };
    let mut chain = Map::new();
    for name in ["cniVersion", "name"] {
        let Some(value) = plugin.remove(name) else {
            bail!("it has no `{name}`");
        };
        chain.insert(name.to_owned(), value);
    }
    if !plugin.contains_key("type") {
        bail!("it has no `type`");
    }
    chain.insert("plugins".to_owned(), json!([plugin]));
    Ok(chain.into())
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// Where the configuration of a single plugin is kept while a chain has its place.
fn saved(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".before-netpol");
    name.into()
}

/// Replaces `file` by a chain, whole, readable for whom `model` is.
fn write(model: &Path, file: &Path, chain: &Value) -> Result<()> {
    // Runtimes know no such ending.
    let next = file.with_extension("netpol");
    fs::write(&next, format!("{chain:#}\n"))
        .and_then(|()| fs::set_permissions(&next, fs::metadata(model)?.permissions()))
        .and_then(|()| fs::rename(&next, file))
        .with_context(|| format!("cannot write `{}`", file.display()))
}
