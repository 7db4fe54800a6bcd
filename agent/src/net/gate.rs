// SPDX-License-Identifier: Apache-2.0
//! How does an interface get closed the moment it appears?
//!
//! A pod may send as soon as its interface is up, which is long before anybody knows whose the interface
//! is. So every pair is closed when the kernel announces it, still down, on threads that do nothing else.
//! Who knows more, later, opens it.
//!
//! The kernel changes interfaces one at a time, and for some milliseconds nobody else may when a program
//! has been attached. Whoever makes a pod's interface waits in the same queue as the gate, so a gate that
//! closed one interface after the other would be behind with the third. Each of several threads closes the
//! interfaces whose numbers fall to it to what comes out of the pod, because only the pod knows when it
//! begins. One more closes them to what goes in, and tells what happened, in order.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use policy_ebpf_common::flow::Direction;

use super::{Link, LinkEvent, LinkWatch, NetError, Netlink, Netns, priority};

/// How many interfaces are closed at a time to what comes out of the pod.
const HANDS: usize = 8;

/// Why an interface is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has just appeared. Who was faster may have put programs there that know it.
    New,
    /// It leads elsewhere than it did, so programs that know it do not know it any more.
    Moved,
}

/// What keeps the packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A gate's program, which lets nothing pass.
    Gate,
    /// A pod's program, which asks the tables, and lets nothing pass of which they know nothing.
    Pod,
}

/// What a gate closes interfaces with, on a thread of the namespace.
pub trait Close: Send {
    /// Lets nothing pass interface `ifindex` in one direction, seen from the pod, but what finds
    /// neighbours. Waits for nothing but the kernel. Returns whether there is such an interface.
    fn close(&mut self, ifindex: u32, direction: Direction, why: Why) -> anyhow::Result<bool>;

    /// Forgets interface `ifindex`, which is gone.
    fn forget(&mut self, ifindex: u32) -> anyhow::Result<()>;

    /// What is on interface `ifindex` in one direction, as the kernel has it; `None` if nothing is.
    fn guard(&self, ifindex: u32, direction: Direction) -> anyhow::Result<Option<Guard>>;
}

/// Without a kernel there is nothing to close.
impl Close for () {
    fn close(&mut self, _: u32, _: Direction, _: Why) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn forget(&mut self, _: u32) -> anyhow::Result<()> {
        Ok(())
    }

    fn guard(&self, _: u32, _: Direction) -> anyhow::Result<Option<Guard>> {
        Ok(Some(Guard::Pod))
    }
}

/// Closes new interfaces of a namespace until dropped; what is closed stays closed.
#[derive(Debug)]
pub struct Gate {
    watch: Option<LinkWatch>,
    threads: Vec<JoinHandle<()>>,
}

impl Gate {
    /// Closes every pair that appears in `namespace` from now on, and every one whose other end moves to
    /// another namespace. Interfaces that are there already are left as they are.
    ///
    /// `closer` makes what each of the gate's threads closes interfaces with. `on_event` hears of it
    /// afterwards, in order, on one of them, so it must not block.
    pub fn start(
        namespace: &Netns,
        mut closer: impl FnMut() -> anyhow::Result<Box<dyn Close>>,
        on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> anyhow::Result<Self> {
        // Before the first event: what appears in between is in the list that follows the first event.
        let known = list(namespace)?;
        let mut gate = Self {
            watch: None,
            threads: Vec::new(),
        };
        let (done, inbox) = channel();
        let close = closer()?;
        gate.spawn(namespace, move || tell(close, &inbox, on_event))?;
        let mut hands = Vec::new();
        for _ in 0..HANDS {
            let (send, inbox) = channel();
            hands.push(send);
            let (close, done) = (closer()?, done.clone());
            gate.spawn(namespace, move || shut(close, &inbox, &done))?;
        }
        let mut keeper = Keeper {
            namespace: namespace.clone(),
            known,
            hands,
            done,
        };
        let watch = LinkWatch::start(namespace, move |event| keeper.handle(event))?;
        gate.watch = Some(watch);
        Ok(gate)
    }

    fn spawn(&mut self, namespace: &Netns, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let namespace = namespace.clone();
        let thread = thread::Builder::new().name("gate".into()).spawn(move || {
            if let Err(error) = namespace.enter() {
                return tracing::error!(%error, "cannot close the node's new interfaces");
            }
            priority::raise();
            work();
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The others end when nobody has work for them.
        drop(self.watch.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What is to be done about an interface, one step after the other.
enum Job {
    /// Close it and tell.
    Shut(Link, Why),
    /// Tell what happened to it.
    Tell(LinkEvent),
}

/// Decides which interfaces are closed.
struct Keeper {
    namespace: Netns,
    known: BTreeMap<u32, Link>,
    hands: Vec<Sender<Job>>,
    done: Sender<Job>,
}

impl Keeper {
    fn handle(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Changed(link) | LinkEvent::Closed(link) => self.changed(link),
            LinkEvent::Gone(link) => self.gone(link),
            LinkEvent::Lost => self.resync(),
        }
    }

    fn changed(&mut self, link: Link) {
        let before = self.known.insert(link.index, link.clone());
        let why = match before {
            None => Some(Why::New),
            Some(before) if has_moved(&before, &link) => Some(Why::Moved),
            Some(_) => None,
        };
        let index = link.index;
        let job = match why {
            Some(why) if link.is_pair => Job::Shut(link, why),
            _ => Job::Tell(LinkEvent::Changed(link)),
        };
        self.hand(index, job);
    }

    fn gone(&mut self, link: Link) {
        self.known.remove(&link.index);
        // Of a pair inside the node one end has left. If it moved into a pod, nothing else tells that the
        // other leads there now.
        let is_left = |other: &&Link| {
            (other.is_pair && link.is_pair)
                && other.peer_nsid.is_none()
                && (other.peer == Some(link.index)
                    || (link.peer_nsid.is_none() && link.peer == Some(other.index)))
        };
        let left: Vec<Link> = self.known.values().filter(is_left).cloned().collect();
        self.hand(link.index, Job::Tell(LinkEvent::Gone(link)));
        for other in left {
            self.hand(other.index, Job::Shut(other, Why::Moved));
        }
    }

    /// Events were lost: whatever is not as it was known to be has just appeared.
    fn resync(&mut self) {
        match list(&self.namespace) {
            Ok(links) => {
                let is_gone = |known: &&Link| {
                    links
                        .get(&known.index)
                        .is_none_or(|link| !is_same(known, link))
                };
                let gone: Vec<Link> = self.known.values().filter(is_gone).cloned().collect();
                for link in gone {
                    self.gone(link);
                }
                for link in links.into_values() {
                    if self.known.get(&link.index) != Some(&link) {
                        self.changed(link);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "cannot list the node's interfaces"),
        }
        // Nobody listens only when the gate ends.
        let _ = self.done.send(Job::Tell(LinkEvent::Lost));
    }

    fn hand(&self, ifindex: u32, job: Job) {
        if let Some(hand) = self.hands.get(ifindex as usize % HANDS) {
            // Nobody listens only when the gate ends.
            let _ = hand.send(job);
        }
    }
}

/// Closes interfaces to what comes out of pods, and passes them on.
fn shut(mut close: Box<dyn Close>, inbox: &Receiver<Job>, done: &Sender<Job>) {
    for job in inbox {
        match &job {
            Job::Shut(link, why) => attempt(&mut *close, link, Direction::Egress, *why),
            // The kernel has taken the programs off with the interface.
            Job::Tell(LinkEvent::Gone(link)) => {
                if let Err(error) = close.forget(link.index) {
                    let (ifindex, error) = (link.index, format!("{error:#}"));
                    tracing::warn!(ifindex, error, "cannot forget an interface");
                }
                true
            }
            Job::Tell(_) => true,
        };
        // Nobody listens only when the gate ends.
        let _ = done.send(job);
    }
}

/// Closes interfaces to what goes into pods, and tells.
fn tell(mut close: Box<dyn Close>, inbox: &Receiver<Job>, mut on_event: impl FnMut(LinkEvent)) {
    for job in inbox {
        match job {
            Job::Tell(event) => on_event(event),
            Job::Shut(link, why) => {
                if attempt(&mut *close, &link, Direction::Ingress, why) {
                    if why == Why::Moved {
                        on_event(LinkEvent::Gone(link.clone()));
                    }
                    on_event(LinkEvent::Closed(link));
                }
            }
        }
    }
}

/// Closes one direction; returns whether there is anything to tell.
fn attempt(close: &mut dyn Close, link: &Link, direction: Direction, why: Why) -> bool {
    match close.close(link.index, direction, why) {
        // That it is gone is announced, too.
        Ok(exists) => exists,
        Err(error) => {
            let (ifindex, name, error) = (link.index, &link.name, format!("{error:#}"));
            tracing::error!(ifindex, name, error, "cannot close an interface");
            true
        }
    }
}

/// Whether the other end of a pair is in another namespace than it was. That it is in any is something
/// that the announcement of a new pair does not say yet.
fn has_moved(before: &Link, now: &Link) -> bool {
    before.peer_nsid.is_some() && before.peer_nsid != now.peer_nsid
}

/// Whether two descriptions are of one interface, and not of two that had the same number.
fn is_same(before: &Link, now: &Link) -> bool {
    let same_peer = before.peer.is_none_or(|peer| peer == 0) || before.peer == now.peer;
    before.is_pair == now.is_pair && same_peer
}

fn list(namespace: &Netns) -> Result<BTreeMap<u32, Link>, NetError> {
    let links = Netlink::open(namespace)?.links()?;
    Ok(links.into_iter().map(|link| (link.index, link)).collect())
}
