// SPDX-License-Identifier: Apache-2.0
//! What does it cost to ask a program in user space about every new flow?
//!
//! A consumer of netfilter's queue (nfnetlink_queue) that looks at the destination port and at nothing
//! else: less than any policy engine can do, so what is measured is the way there and back.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use agent::net::Netns;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use super::load::pin;

/// How long the end of the consumer may go unnoticed.
const POLL: Duration = Duration::from_millis(50);

// From linux/netfilter/nfnetlink.h and nfnetlink_queue.h.
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PACKET_HEADER: u16 = 1;
const PACKET_VERDICT: u16 = 2;
const PACKET_PAYLOAD: u16 = 10;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

const REQUEST: u16 = 1;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
/// Bytes of each packet that are handed up: an IPv4 header with options and the ports.
const COPIED: u32 = 64;

/// A consumer at work; dropping it ends it, and with it the queue.
pub(crate) struct Queue {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Queue {
    /// Consumes queue `number` of the namespace, on this CPU, and refuses what goes to port `refused`.
    pub(crate) fn start(
        namespace: &Netns,
        number: u16,
        refused: u16,
        cpu: usize,
    ) -> io::Result<Self> {
        let socket = namespace.run(|| open(number))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("queue".into()).spawn(move || {
            pin(cpu);
            let mut buffer = [0; 8192];
            while !stopped.load(Ordering::Relaxed) {
                // Timeouts are for looking at `stopped`; an overrun loses packets, as it would anybody.
                if let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    for answer in answers(&buffer[..length], number, refused) {
                        let _ = send(&socket, &answer, SendFlags::empty());
                    }
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(number: u16) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(POLL))?;
    let command = [COMMAND_BIND, 0, 0, 0];
    let parameters = [&COPIED.to_be_bytes()[..], &[COPY_PACKET]].concat();
    for (kind, payload) in [
        (CONFIG_COMMAND, &command[..]),
        (CONFIG_PARAMETERS, &parameters[..]),
    ] {
        send(
            &socket,
            &message(CONFIG, number, kind, payload),
            SendFlags::empty(),
        )?;
    }
    Ok(socket)
}

/// A request with one attribute.
fn message(kind: u16, queue: u16, attribute: u16, payload: &[u8]) -> Vec<u8> {
    let attribute_length = 4 + payload.len();
    let padded = attribute_length.next_multiple_of(4);
    let mut bytes = Vec::with_capacity(HEADERS + padded);
    let length = u32::try_from(HEADERS + padded).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    // Family unspecified, version 0, the queue in network order.
    bytes.extend([0, 0]);
    bytes.extend(queue.to_be_bytes());
    let length = u16::try_from(attribute_length).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(HEADERS + padded, 0);
    bytes
}

/// A verdict for every packet in what was received.
fn answers(received: &[u8], queue: u16, refused: u16) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = received;
    while let Some((header, _)) = rest.split_first_chunk::<HEADERS>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADERS..length) else {
            break;
        };
        if u16::from_ne_bytes([header[4], header[5]]) == PACKET
            && let Some(id) = attribute(body, PACKET_HEADER).and_then(|a| a.first_chunk::<4>())
        {
            let port = attribute(body, PACKET_PAYLOAD).and_then(destination_port);
            let verdict = if port == Some(refused) { DROP } else { ACCEPT };
            let answer = [verdict.to_be_bytes(), *id].concat();
            answers.push(message(VERDICT, queue, PACKET_VERDICT, &answer));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// The payload of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let payload = attributes.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Of an IPv4 packet whose transport header begins with ports.
fn destination_port(packet: &[u8]) -> Option<u16> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let port = packet.get(header + 2..header + 4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}
