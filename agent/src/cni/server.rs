// SPDX-License-Identifier: Apache-2.0
//! How does the agent answer the network plugin?
//!
//! On threads of their own in the node's network namespace, one for each plugin that waits. They find the
//! node's end of the interface, leave a [`Hold`] with whoever keeps the tables, and look at the interface
//! itself before they say that it is closed.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use policy_compiler::model::PodKey;
use policy_ebpf_common::flow::Direction;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    claims::{Claim, Hold, Progress},
    spec::Wait,
    wire::{self, Answer, Question},
};
use crate::{
    admin,
    net::{Close, Guard, Netns, outside_of},
};

/// How long a plugin may take to say what it wants, and to take the answer.
const PROMPT: Duration = Duration::from_secs(5);
/// Longer than this no plugin can be told to wait.
const LONGEST: Duration = Duration::from_hours(18);
/// How often an interface is looked at that should be closed.
const LOOK: Duration = Duration::from_millis(2);

/// Answers plugins until dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: OwnedFd,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the threads share.
struct Desk {
    host: Netns,
    gate: Mutex<Box<dyn Close>>,
    holds: Box<dyn Fn(Hold) -> bool + Send + Sync>,
}

impl Server {
    /// Listens on the socket `path`, which only its owner can open. `gate` looks at interfaces of `host`;
    /// `holds` takes note of who waits, and returns whether anybody will answer.
    ///
    /// # Errors
    ///
    /// The socket or the thread cannot be made.
    pub fn start(
        path: &Path,
        host: &Netns,
        gate: Box<dyn Close>,
        holds: impl Fn(Hold) -> bool + Send + Sync + 'static,
    ) -> Result<Self> {
        let shown = path.display();
        let listener = admin::bind_private(path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on `{shown}`"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let stopped = stop.try_clone()?;
        let desk = Arc::new(Desk {
            host: host.clone(),
            gate: Mutex::new(gate),
            holds: Box::new(holds),
        });
        let thread = thread::Builder::new()
            .name("cni".into())
            .spawn(move || listen(&listener, &stopped, &desk))?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // First: who comes now is told that nobody is there, and comes again.
        let _ = fs::remove_file(&self.path);
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &UnixListener, stop: &OwnedFd, desk: &Arc<Desk>) {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "network plugins are no longer answered"),
        }
        if !ready[0].revents().is_empty() {
            return;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let desk = desk.clone();
        let serving = thread::Builder::new()
            .name("cni-pod".into())
            .spawn(move || {
                if let Err(error) = serve(&stream, &desk) {
                    tracing::debug!(%error, "a network plugin went without its answer");
                }
            });
        if let Err(error) = serving {
            tracing::error!(%error, "cannot answer a network plugin");
        }
    }
}

fn serve(stream: &UnixStream, desk: &Desk) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PROMPT))?;
    stream.set_write_timeout(Some(PROMPT))?;
    let (question, file) = wire::receive(stream)?;
    let answer = match (question, file) {
        (Question::Ready, _) => Answer::Ready,
        (Question::Hold { .. }, None) => Answer::Never("no network namespace came along".into()),
        (
            Question::Hold {
                interface,
                namespace,
                pod,
                uid,
                wait,
                patience,
            },
            Some(netns),
        ) => {
            let until = Instant::now() + Duration::from_millis(patience).min(LONGEST);
            let netns = Netns::from_file(netns.into())?;
            let claim = Claim {
                pod: PodKey::new(&namespace, &pod),
                uid,
                netns: netns.inode()?,
            };
            match hold(desk, &netns, &interface, claim, wait, until) {
                Ok(answer) => answer,
                Err(error) => Answer::NotYet(format!("{error:#}")),
            }
        }
    };
    wire::send(stream, &answer, None)
}

/// Waits until the interface is as it should be, or there is no more time.
fn hold(
    desk: &Desk,
    netns: &Netns,
    interface: &str,
    claim: Claim,
    wait: Wait,
    until: Instant,
) -> Result<Answer> {
    desk.host.enter()?;
    if netns.inode()? == desk.host.inode()? {
        return Ok(Answer::Never("this is the node's own network".into()));
    }
    let Some(outside) = outside_of(&desk.host, netns, interface)? else {
        let why = format!("interface `{interface}` has no other end on the node");
        return Ok(Answer::Never(why));
    };
    let pod = claim.pod.clone();
    let (answer, reached) = mpsc::channel();
    let is_taken = (desk.holds)(Hold {
        ifindex: outside.index,
        controller: outside.controller,
        claim,
        wait,
        until,
        answer,
    });
    if !is_taken {
        return Ok(Answer::NotYet("the agent is ending".into()));
    }
    let left = until.saturating_duration_since(Instant::now());
    let Ok(progress) = reached.recv_timeout(left) else {
        let why = match wait {
            Wait::Closed => format!("the agent has not closed interface {}", outside.index),
            Wait::Programmed => format!("no tables are in force for pod {pod}"),
        };
        return Ok(Answer::NotYet(why));
    };
    // What was told is what should be. What is, only the interface itself says.
    loop {
        let gate = desk.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let [from, to] = [Direction::Egress, Direction::Ingress]
            .map(|direction| gate.guard(outside.index, direction));
        drop(gate);
        match (from?, to?, progress) {
            (Some(Guard::Pod), Some(Guard::Pod), Progress::Programmed) => {
                return Ok(Answer::Programmed);
            }
            (Some(_), Some(_), Progress::Closed) => return Ok(Answer::Closed),
            _ if Instant::now() >= until => {
                let why = format!("interface {} lacks its programs", outside.index);
                return Ok(Answer::NotYet(why));
            }
            _ => thread::sleep(LOOK),
        }
    }
}
