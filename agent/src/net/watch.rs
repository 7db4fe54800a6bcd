// SPDX-License-Identifier: Apache-2.0
//! When do interfaces come and go?

use std::{io, thread};

use futures::StreamExt as _;
use rtnetlink::{MulticastGroup, packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage};
use tokio::{runtime::Builder, sync::oneshot};

use super::{Link, Netns};

/// A change of a namespace's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is new or changed.
    Changed(Link),
    /// The interface is gone.
    Gone(Link),
    /// Events were lost: list the interfaces again.
    Lost,
}

/// Watches a namespace's interfaces until dropped.
#[derive(Debug)]
pub struct LinkWatch {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl LinkWatch {
    /// Calls `on_event` for every change in `namespace` from now on, on a thread of its own.
    ///
    /// Changes before the call are not reported: subscribe first, then list.
    pub fn start(
        namespace: &Netns,
        mut on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, _handle, mut messages) = namespace.run(|| {
            let _guard = runtime.enter();
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
        })?;
        let (stop, mut stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("link-watch".into())
            .spawn(move || {
                runtime.spawn(connection);
                runtime.block_on(async {
                    loop {
                        let message = tokio::select! {
                            _ = &mut stopped => return,
                            message = messages.next() => message,
                        };
                        let Some((message, _)) = message else { return };
                        match message.payload {
                            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                                on_event(LinkEvent::Changed(link.into()));
                            }
                            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                                on_event(LinkEvent::Gone(link.into()));
                            }
                            NetlinkPayload::Overrun(_) => on_event(LinkEvent::Lost),
                            _ => {}
                        }
                    }
                });
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
