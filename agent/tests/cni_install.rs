// SPDX-License-Identifier: Apache-2.0
//! The plugin gets into the chain that a runtime uses, stays in it, and leaves no trace.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use agent::cni::{
    PLUGIN, SOCKET,
    install::{Folders, Found, Installed, add, remove},
};
use serde_json::{Value, json};

/// The folders of a runtime, which go with the test.
struct Runtime {
    dir: tempfile::TempDir,
}

impl Runtime {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net.d")).unwrap();
        Self { dir }
    }

    fn folders(&self) -> Folders {
        Folders {
            cni_bin_dir: self.dir.path().join("bin"),
            cni_conf_dir: self.conf(""),
        }
    }

    fn conf(&self, file: &str) -> PathBuf {
        self.dir.path().join("net.d").join(file)
    }

    fn write(&self, file: &str, value: &Value) {
        fs::write(self.conf(file), value.to_string()).unwrap();
    }

    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.conf(file)).unwrap()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.conf("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn add(&self) -> anyhow::Result<Found> {
        add(&self.conf(""), Path::new(SOCKET))
    }
}

fn chain(plugins: &[&str]) -> Value {
    let plugins: Vec<Value> = plugins.iter().map(|kind| json!({"type": kind})).collect();
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})
}

fn kinds(chain: &Value) -> Vec<&str> {
    let plugins = chain["plugins"].as_array().unwrap();
    plugins
        .iter()
        .map(|p| p["type"].as_str().unwrap())
        .collect()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_comes_last_in_the_first_chain() {
    let runtime = Runtime::new();
    assert_eq!(runtime.add().unwrap(), Found::Nothing);
    runtime.write("20-other.conflist", &chain(&["bridge"]));
    let mut first = chain(&["ptp", "portmap"]);
    first["disableCheck"] = json!(true);
    runtime.write("10-pods.conflist", &first);
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(runtime.conf("10-pods.conflist"), private).unwrap();

    let file = runtime.conf("10-pods.conflist");
    assert_eq!(runtime.add().unwrap(), Found::Added(file.clone()));
    let written = runtime.read("10-pods.conflist");
    assert_eq!(kinds(&written), ["ptp", "portmap", PLUGIN]);
    assert_eq!(written["disableCheck"], true);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(runtime.add().unwrap(), Found::There(file));
    assert_eq!(kinds(&runtime.read("20-other.conflist")), ["bridge"]);
    assert_eq!(runtime.names(), ["10-pods.conflist", "20-other.conflist"]);

    remove(&runtime.folders()).unwrap();
    assert_eq!(runtime.read("10-pods.conflist"), first);
    remove(&runtime.folders()).unwrap();
}

#[test]
fn the_first_place_is_the_wrong_one_and_any_other_is_not() {
    let runtime = Runtime::new();
    runtime.write("10.conflist", &chain(&[PLUGIN, "ptp"]));
    runtime.add().unwrap();
    assert_eq!(kinds(&runtime.read("10.conflist")), ["ptp", PLUGIN]);
    runtime.write("10.conflist", &chain(&["ptp", PLUGIN, "tuning"]));
    let file = runtime.conf("10.conflist");
    assert_eq!(runtime.add().unwrap(), Found::There(file));
}

#[test]
fn another_socket_is_written_down() {
    let runtime = Runtime::new();
    runtime.write("10.conflist", &chain(&["ptp"]));
    add(&runtime.conf(""), Path::new("/run/other.sock")).unwrap();
    let written = runtime.read("10.conflist");
    assert_eq!(written["plugins"][1]["socket"], "/run/other.sock");
}

#[test]
fn a_single_plugin_becomes_a_chain_and_itself_again() {
    let runtime = Runtime::new();
    let single = json!({"cniVersion": "0.3.1", "name": "pods", "type": "bridge", "mtu": 1400});
    for _ in 0..2 {
        // The second time its owner has written it once more.
        runtime.write("10-pods.conf", &single);
        runtime.add().unwrap();
        let names = ["10-pods.conf.before-netpol", "10-pods.conflist"];
        assert_eq!(runtime.names(), names);
        assert_eq!(
            runtime.read("10-pods.conflist"),
            json!({"cniVersion": "0.3.1", "name": "pods",
                   "plugins": [{"type": "bridge", "mtu": 1400}, {"type": PLUGIN}]})
        );
    }
    remove(&runtime.folders()).unwrap();
    assert_eq!(runtime.names(), ["10-pods.conf"]);
    assert_eq!(runtime.read("10-pods.conf"), single);
}

#[test]
fn what_it_cannot_be_added_to_stays_as_it_is() {
    let old = json!({"cniVersion": "0.2.0", "name": "pods", "type": "bridge"});
    let nameless = json!({"cniVersion": "1.0.0", "type": "bridge"});
    for (file, text, why) in [
        ("10.conf", old.to_string(), "version `0.2.0`"),
        ("10.conf", nameless.to_string(), "no `name`"),
        ("10.conf", "[]".to_owned(), "no object"),
        ("10.conflist", chain(&[]).to_string(), "no plugins"),
        (
            "10.conflist",
            "{\"cniVersion\": \"1.0".to_owned(),
            "cannot read",
        ),
    ] {
        let runtime = Runtime::new();
        fs::write(runtime.conf(file), &text).unwrap();
        let error = format!("{:#}", runtime.add().unwrap_err());
        assert!(error.contains(why), "{text}: {error}");
        assert_eq!(fs::read_to_string(runtime.conf(file)).unwrap(), text);
        assert_eq!(runtime.names(), [file]);
    }
    // Somebody else's chain has the name that this one would take.
    let runtime = Runtime::new();
    runtime.write(
        "10.conf",
        &json!({"cniVersion": "1.0.0", "name": "a", "type": "ptp"}),
    );
    runtime.write("10.conflist", &chain(&["bridge"]));
    assert!(runtime.add().is_err());
    assert_eq!(runtime.names(), ["10.conf", "10.conflist"]);
}

#[test]
fn it_stays_in_a_chain_that_others_write() {
    let runtime = Runtime::new();
    let installed = Installed::start(&runtime.folders(), Path::new(SOCKET)).unwrap();
    let program = runtime.folders().cni_bin_dir.join(PLUGIN);
    let mode = fs::metadata(&program).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let is_in = |first: &str| {
        let text = fs::read(runtime.conf("10-pods.conflist")).unwrap_or_default();
        let written: Value = serde_json::from_slice(&text).unwrap_or_default();
        written["plugins"][0]["type"] == first && written["plugins"][1]["type"] == PLUGIN
    };
    // The network comes after the agent, then another one, in pieces.
    runtime.write("10-pods.conflist", &chain(&["ptp"]));
    eventually("in the first chain", || is_in("ptp"));
    let text = chain(&["bridge"]).to_string();
    fs::write(runtime.conf("10-pods.conflist"), &text[..20]).unwrap();
    thread::sleep(Duration::from_millis(100));
    fs::write(runtime.conf("10-pods.conflist"), &text).unwrap();
    eventually("in the second chain", || is_in("bridge"));
    fs::remove_file(&program).unwrap();
    runtime.write("10-pods.conflist", &chain(&["bridge"]));
    eventually("the program is back", || program.exists());

    drop(installed);
    eventually("an agent's end changes nothing", || is_in("bridge"));
    let state = runtime.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let cleanup = Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
        .arg("cleanup")
        .arg("--bpffs")
        .arg(runtime.dir.path())
        .arg("--state-dir")
        .arg(&state)
        .arg("--cni-bin-dir")
        .arg(runtime.folders().cni_bin_dir)
        .arg("--cni-conf-dir")
        .arg(runtime.conf(""))
        .output()
        .unwrap();
    assert!(cleanup.status.success(), "{cleanup:?}");
    assert_eq!(runtime.read("10-pods.conflist"), chain(&["bridge"]));
    assert!(!program.exists());
}
