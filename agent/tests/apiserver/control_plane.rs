// SPDX-License-Identifier: Apache-2.0
//! A kube-apiserver with its etcd, for one test. The suites that talk to one include this file.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    api::{GetParams, ListParams},
    config::AuthInfo,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Users who have a token of the same name.
const ADMIN: &str = "admin";

/// A running control plane; dropping it ends it.
pub(crate) struct ControlPlane {
    folder: TempDir,
    assets: PathBuf,
    _etcd: Server,
    apiserver: Option<Server>,
    etcd_port: u16,
    port: u16,
    flags: Vec<&'static str>,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready; `None` if there is none on this machine.
    ///
    /// CI sets `CI` and must not skip, so there it is an error.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`ControlPlane::start`], with further flags for the API server.
    pub(crate) async fn start_with(flags: &[&'static str]) -> Option<Self> {
        let Some(assets) = assets() else {
            assert!(
                env::var_os("CI").is_none(),
                "no kube-apiserver: run `.ci/setup controlplane`"
            );
            println!(
                "skipped: no kube-apiserver, run `.ci/setup controlplane` or set KUBEBUILDER_ASSETS"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let [etcd_port, peer_port, port] = free_ports();
        let etcd = spawn(
            &assets.join("etcd"),
            &folder.path().join("etcd.log"),
            &[
                format!("--data-dir={}", folder.path().join("etcd").display()),
                format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
                format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        );
        let mut plane = Self {
            folder,
            assets,
            _etcd: etcd,
            apiserver: None,
            etcd_port,
            port,
            flags: flags.to_vec(),
        };
        plane.start_apiserver().await;
        Some(plane)
    }

    /// A client of somebody who may do everything.
    pub(crate) fn client(&self) -> Client {
        self.client_of(ADMIN)
    }

    /// A client of the user `token`.
    pub(crate) fn client_of(&self, token: &str) -> Client {
        Client::try_from(self.config_of(token)).unwrap()
    }

    /// What a client of the user `token` is made of.
    pub(crate) fn config_of(&self, token: &str) -> Config {
        let url = format!("https://127.0.0.1:{}", self.port);
        let mut config = Config::new(url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        config
    }

    /// A kubeconfig of the user `token`, for programs.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{token}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": token}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": token, "user": {"token": token}}],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Ends the API server; etcd keeps what it holds.
    pub(crate) fn stop_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Starts the API server at its old address and waits until it is ready.
    pub(crate) async fn start_apiserver(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", path("certificates")),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // Watches do not compete with each other for seats in a test.
            "--enable-priority-and-fairness=false".to_owned(),
        ];
        arguments.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        let server = spawn(
            &self.assets.join("kube-apiserver"),
            &self.folder.path().join("apiserver.log"),
            &arguments,
        );
        self.apiserver = Some(server);
        let client = self.client();
        let deadline = Instant::now() + Duration::from_mins(2);
        while !is_ready(&client).await {
            if let Some(Server(child)) = &mut self.apiserver
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("kube-apiserver ended with {status}: {}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes an object behind the API server's back.
    pub(crate) fn erase(&self, key: &str) -> Value {
        let body = json!({"key": base64(key)});
        let deleted = self.etcd("kv/deleterange", &body.to_string());
        assert_eq!(deleted["deleted"], "1", "{deleted}");
        deleted
    }

    /// As [`ControlPlane::erase`], and makes etcd forget that the object ever was.
    pub(crate) fn erase_history(&self, key: &str) {
        let deleted = self.erase(key);
        let revision = deleted["header"]["revision"].as_str().unwrap();
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.etcd("kv/compaction", &body);
    }

    /// Makes etcd forget everything but the present.
    pub(crate) fn compact(&self) {
        let present = self.etcd("kv/range", &json!({"key": base64("/")}).to_string());
        let revision = present["header"]["revision"].as_str().unwrap();
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.etcd("kv/compaction", &body);
    }

    /// Stores objects without asking the API server, which reads them as if it had written them.
    pub(crate) fn store(&self, objects: impl Iterator<Item = (String, Value)>) {
        let puts: Vec<Value> = objects
            .map(|(key, object)| {
                let value = base64(&object.to_string());
                json!({"requestPut": {"key": base64(&key), "value": value}})
            })
            .collect();
        // etcd takes 128 operations at once. What is put at once has one version, so a watch that begins in
        // the middle of it misses the rest: see `has_read`.
        for puts in puts.chunks(100) {
            self.etcd("kv/txn", &json!({"success": puts}).to_string());
        }
    }

    /// Waits until the API server has what was stored under `key`, and with it everything that was stored
    /// before under keys of its kind. Until then it begins watches with a part of them.
    pub(crate) async fn has_read(&self, key: &str) {
        let parts: Vec<&str> = key.split('/').collect();
        let &["", "registry", resource, namespace, name] = parts.as_slice() else {
            panic!("`{key}` is no key of an object in a namespace");
        };
        let root = match resource {
            "pods" => "/api/v1",
            "networkpolicies" => "/apis/networking.k8s.io/v1",
            _ => panic!("where is `{resource}`?"),
        };
        let objects = kube::core::Request::new(format!("{root}/namespaces/{namespace}/{resource}"));
        let client = self.client();
        let deadline = Instant::now() + Duration::from_mins(5);
        // Any version, as a watch that begins takes it: what the server has in memory.
        while let Err(error) = client
            .request_text(objects.get(name, &GetParams::any()).unwrap())
            .await
        {
            assert!(Instant::now() < deadline, "{key} not read: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks etcd, which serves its gRPC API as JSON, too.
    fn etcd(&self, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.etcd_port)).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /v3/{path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("apiserver.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

async fn is_ready(client: &Client) -> bool {
    let request = kube::core::Request::new("/readyz")
        .list(&ListParams::default())
        .unwrap();
    client
        .request_text(request)
        .await
        .is_ok_and(|text| text == "ok")
}

/// The folder with the binaries.
fn assets() -> Option<PathBuf> {
    let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let built = cache.map(|cache| cache.join("netpol/controlplane"));
    given
        .or(built)
        .filter(|folder| folder.join("kube-apiserver").exists())
}

fn base64(text: &str) -> String {
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

/// Writes the files a control plane is started with.
fn prepare(folder: &Path) {
    let key = Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
        .output()
        .unwrap();
    assert!(key.status.success(), "{key:?}");
    fs::write(folder.join("sa.key"), key.stdout).unwrap();
    let tokens = "admin,admin,admin,\"system:masters\"\n\
                  agent,system:serviceaccount:netpol-system:netpol-agent,agent,\"system:serviceaccounts\"\n\
                  stranger,stranger,stranger,\n";
    fs::write(folder.join("tokens.csv"), tokens).unwrap();
}

fn spawn(program: &Path, log: &Path, arguments: &[String]) -> Server {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    Server(child)
}

/// Ports that are free and not handed out to outgoing connections, all different in this process.
fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    std::array::from_fn(|_| {
        loop {
            let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}
