// SPDX-License-Identifier: Apache-2.0
//! Do spans reach a collector? Where it is, is read from the environment, so the sender is a process of
//! its own: this program once more.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    env,
    process::Command,
    sync::{Arc, Mutex},
};

use agent::{
    engine::{Engine, Recording, Settings},
    telemetry::{LogFormat, init},
};
use axum::{Router, body::Bytes, extract::State, routing::post};
use policy_compiler::Snapshot;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The bodies of all requests.
type Received = Arc<Mutex<Vec<u8>>>;

fn main() {
    if env::var_os(ENDPOINT).is_some() {
        send();
    } else {
        receive();
    }
}

fn send() {
    let _telemetry = init(LogFormat::Text, "info");
    let mut engine = Engine::new("n1", Settings::default(), Recording::default());
    engine.apply(Snapshot::default()).unwrap();
}

#[tokio::main(flavor = "current_thread")]
async fn receive() {
    let received = Received::default();
    let collector = Router::new()
        .route("/v1/traces", post(keep))
        .with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(axum::serve(listener, collector).into_future());
    let sender = tokio::task::spawn_blocking(move || {
        let mut sender = Command::new(env::current_exe().unwrap());
        sender.env(ENDPOINT, endpoint).status().unwrap()
    });
    assert!(sender.await.unwrap().success());
    serving.abort();

    let received = received.lock().unwrap();
    for expected in ["netpol-agent", "apply", "compile", "lower", "publish", "n1"] {
        let is_there = received
            .windows(expected.len())
            .any(|part| part == expected.as_bytes());
        assert!(is_there, "`{expected}` has not arrived");
    }
}

async fn keep(State(received): State<Received>, body: Bytes) {
    received.lock().unwrap().extend(body);
}
