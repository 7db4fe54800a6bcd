// SPDX-License-Identifier: Apache-2.0
//! What does the agent tell over HTTP?
//!
//! Probes and metrics are served to the network; what reveals the cluster's pods and policies is served
//! on a Unix socket that only root of the node can open.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the agent's loop turns and how far it has come, as the probes see it.
#[derive(Clone, Debug)]
pub struct Health {
    started: Instant,
    /// Milliseconds from `started` to the last turn of the loop.
    last_turn: Arc<AtomicU64>,
    unready: Arc<ArcSwap<Vec<String>>>,
}

impl Health {
    /// An agent that has just started: alive, and not ready.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            last_turn: Arc::default(),
            unready: Arc::new(ArcSwap::from_pointee(vec!["starting".to_owned()])),
        }
    }

    /// Notes that the loop has turned.
    pub fn turned(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_turn.store(elapsed, Ordering::Relaxed);
    }

    /// Replaces the reasons for not being ready; with none the agent is ready.
    pub fn set_unready(&self, reasons: Vec<String>) {
        if **self.unready.load() != reasons {
            self.unready.store(Arc::new(reasons));
        }
    }

    /// Why the agent is not ready; empty if it is.
    pub fn unready(&self) -> Arc<Vec<String>> {
        self.unready.load_full()
    }

    /// How long the loop has not turned.
    pub fn since_turn(&self) -> Duration {
        let last = Duration::from_millis(self.last_turn.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// A loop that stands still for longer than this is dead.
const STALLED: Duration = Duration::from_mins(1);

/// Serves `/livez`, `/readyz` and `/metrics` on `address` until `stop`.
///
/// # Errors
///
/// `address` cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    serve_on(listener, health, metrics, stop).await
}

/// As [`serve`], on a listener that is already bound.
pub async fn serve_on(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(health, metrics))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

fn router(health: Health, metrics: Metrics) -> Router {
    let probes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health);
    let numbers = Router::new()
        .route("/metrics", get(scrape))
        .with_state(metrics);
    probes.merge(numbers)
}

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    let idle = health.since_turn();
    if idle < STALLED {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text = format!("the loop has not turned for {} s\n", idle.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let reasons = health.unready();
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let mut text = reasons.join("\n");
        text.push('\n');
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            "metrics cannot be encoded\n".to_owned(),
        ),
    }
}

/// A question of the debug socket to the one who holds the state.
#[derive(Debug)]
pub struct Question {
    /// What follows `/debug/`.
    pub path: String,
    /// Takes the document, if there is one.
    pub answer: oneshot::Sender<Option<Value>>,
}

/// Serves `/debug/*` on the Unix socket `path`, which only its owner can open, until `stop`; `paths` are
/// what can be asked for.
///
/// # Errors
///
/// The socket cannot be made.
pub async fn serve_debug(
    path: PathBuf,
    paths: &'static [&'static str],
    questions: mpsc::Sender<Question>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = bind_private(&path)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let router = Router::new()
        .route("/debug", get(async || debug_index(paths)))
        .route("/debug/{*path}", get(debug_document))
        .with_state(questions);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await?;
    fs::remove_file(path)
}

/// Binds a socket that nobody else can open at any moment: it is made under a private folder and moved.
pub(crate) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().display();
    let private = folder.join(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&private)?;
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
    let unseen = private.join("socket");
    let _ = fs::remove_file(&unseen);
    let listener = UnixListener::bind(&unseen)?;
    fs::set_permissions(&unseen, fs::Permissions::from_mode(0o600))?;
    // Replaces the socket a killed agent left behind.
    fs::rename(&unseen, path)?;
    fs::remove_dir(&private)?;
    Ok(listener)
}

fn debug_index(paths: &[&str]) -> String {
    paths
        .iter()
        .fold(String::new(), |text, path| text + "/debug/" + path + "\n")
}

async fn debug_document(
    State(questions): State<mpsc::Sender<Question>>,
    axum::extract::Path(path): axum::extract::Path<String>,
) -> impl IntoResponse {
    let plain = [(header::CONTENT_TYPE, "text/plain")];
    let (answer, document) = oneshot::channel();
    let question = Question {
        path: path.clone(),
        answer,
    };
    if questions.send(question).await.is_err() {
        let text = "the agent is ending\n".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, plain, text);
    }
    if let Ok(Some(value)) = document.await {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::OK, json, format!("{value:#}\n"))
    } else {
        let text = format!("there is no `/debug/{path}`\n");
        (StatusCode::NOT_FOUND, plain, text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
        net::{TcpStream, UnixStream},
    };

    use super::*;

    async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_health() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let serving = tokio::spawn(serve_on(
            listener,
            health.clone(),
            Metrics::new(),
            stop.clone(),
        ));
        let get =
            async |path: &str| request(TcpStream::connect(address).await.unwrap(), path).await;

        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get("/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("starting\n"),
            "{answer}"
        );
        health.set_unready(Vec::new());
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get("/metrics").await.contains("netpol_ready 0"));
        assert!(get("/debug").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_debug_socket_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run").join("debug.sock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "left by a killed agent").unwrap();
        let stop = CancellationToken::new();
        let (questions, mut asked) = mpsc::channel::<Question>(1);
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                let document = (question.path == "answer").then(|| json!({"is": 42}));
                let _ = question.answer.send(document);
            }
        });
        let serving = serve_debug(path.clone(), &["answer"], questions, stop.clone());
        let serving = tokio::spawn(serving);
        let connect = async || loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };

        let answer = request(connect().await, "/debug/answer").await;
        assert!(answer.contains("\"is\": 42"), "{answer}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            request(connect().await, "/debug").await.lines().last(),
            Some("/debug/answer")
        );
        assert!(
            request(connect().await, "/debug/x")
                .await
                .starts_with("HTTP/1.1 404")
        );

        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
    }
}
