// SPDX-License-Identifier: Apache-2.0
//! What does a processor do between two packets of a pod?
//!
//! On a node it runs the network stack, the scheduler and the pods, whose code and data take the
//! place of the programs' in the caches nearest to the processor.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use agent::net::{Netlink, Netns};

/// Twice what caches of first level hold, as most processors have them.
const MEMORY: usize = 128 << 10;
const LINE: usize = 64;

/// Work of another kind.
pub(crate) struct Elsewhere {
    ends: [TcpStream; 2],
    memory: Vec<u8>,
}

/// Makes the calling thread's network namespace one that packets pass through.
pub(crate) fn prepare() {
    let here = Netns::current().expect("namespace");
    let links = Netlink::open(&here).expect("netlink");
    let loopback = links.link_named("lo").expect("links").expect("a loopback");
    links.set_up(loopback.index).expect("up");
}

impl Elsewhere {
    /// Opens a connection through the loopback device.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let near = listener
            .local_addr()
            .and_then(TcpStream::connect)
            .expect("a connection");
        let (far, _) = listener.accept().expect("a connection");
        let ends = [near, far];
        for end in &ends {
            end.set_nodelay(true).expect("a socket");
        }
        Self {
            ends,
            memory: vec![0; MEMORY],
        }
    }

    /// A request and its response, and as much memory as an application may touch.
    pub(crate) fn work(&mut self) {
        let [near, far] = &mut self.ends;
        let mut byte = [0];
        for _ in 0..2 {
            near.write_all(&byte).expect("sent");
            far.read_exact(&mut byte).expect("received");
            far.write_all(&byte).expect("sent");
            near.read_exact(&mut byte).expect("received");
        }
        for line in self.memory.chunks_mut(LINE) {
            line[0] = line[0].wrapping_add(1);
        }
        black_box(&self.memory);
    }
}
