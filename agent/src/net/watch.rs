// SPDX-License-Identifier: Apache-2.0
//! When do interfaces come and go?

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    thread,
};

use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily as Family, RouteNetlinkMessage, link::LinkMessage},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with, sockopt,
    },
};

use super::{Link, Netns, priority};

/// A change of a namespace's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is new or changed.
    Changed(Link),
    /// The interface is new, and a [`super::Gate`] has closed it.
    Closed(Link),
    /// The interface is gone; or it leads elsewhere than it did and is told as new next.
    Gone(Link),
    /// Events were lost: list the interfaces again. Also the first event.
    Lost,
}

/// Bytes of events that may wait. The kernel doubles it, and takes about two kilobytes for an event.
const BACKLOG: usize = 4 << 20;

/// What one event may take.
const LARGEST: usize = 64 << 10;

/// `RTMGRP_LINK`: interfaces come, change and go.
const LINKS: u32 = 1;

/// Watches a namespace's interfaces until dropped.
#[derive(Debug)]
pub struct LinkWatch {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl LinkWatch {
    /// Calls `on_event` for every change in `namespace` from now on, on a thread of its own that lives in
    /// the namespace and runs before others where the process may ask for that.
    ///
    /// Changes before the call are not reported; the first event says so.
    pub fn start(
        namespace: &Netns,
        on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = stop.clone();
        let namespace = namespace.clone();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("link-watch".into())
            .spawn(move || {
                let socket = namespace.enter().and_then(|()| subscribe());
                match socket {
                    Ok(socket) => {
                        priority::raise();
                        let _ = ready.send(Ok(()));
                        follow(&socket, &stopped, on_event);
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that watches interfaces died")))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn subscribe() -> io::Result<OwnedFd> {
    // Protocol 0 of netlink is routing (NETLINK_ROUTE).
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, BACKLOG).is_err() {
        // Within the system's limit, then.
        sockopt::set_socket_recv_buffer_size(&socket, BACKLOG)?;
    }
    bind(&socket, &SocketAddrNetlink::new(0, LINKS))?;
    Ok(socket)
}

fn follow(socket: &OwnedFd, stop: &OwnedFd, mut on_event: impl FnMut(LinkEvent)) {
    on_event(LinkEvent::Lost);
    let mut buffer = vec![0; LARGEST];
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "interfaces are no longer watched"),
        }
        if !ready[0].revents().is_empty() {
            return;
        }
        match recv(socket, &mut *buffer, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((taken, length)) if length <= taken => {
                if !report(&buffer[..taken], &mut on_event) {
                    on_event(LinkEvent::Lost);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Too long, or more than there was room for (ENOBUFS).
            Ok(_) | Err(_) => on_event(LinkEvent::Lost),
        }
    }
}

/// Reports the events of one datagram; returns whether all of them were understood.
fn report(mut datagram: &[u8], on_event: &mut impl FnMut(LinkEvent)) -> bool {
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            return false;
        };
        let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
        datagram = datagram.get(length.max(ALIGNMENT)..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if is_link(&link) => {
                on_event(LinkEvent::Changed(link.into()));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if is_link(&link) => {
                on_event(LinkEvent::Gone(link.into()));
            }
            _ => {}
        }
    }
    true
}

/// Bridges say "new" and "gone" of their ports in the same words, which is not about the interface.
fn is_link(message: &LinkMessage) -> bool {
    message.header.interface_family == Family::Unspec
}

/// Messages of a datagram start at multiples of this (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;
