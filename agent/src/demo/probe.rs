// SPDX-License-Identifier: Apache-2.0
//! Does a packet get through, and does the answer come back?

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, ipproto, socket_with};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, UdpSocket},
    runtime::Builder,
    time::timeout,
};

use super::{
    plan::{Probe, Transport},
    sctp,
};
use crate::net::Netns;

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// The answer came back.
    Allow,
    /// Silence.
    Deny,
    /// The probe itself failed: says nothing about policy, and must not be mistaken for a drop.
    Broken(String),
}

/// How long silence must last, per attempt. A dropped packet is never answered, so the later attempts
/// only serve answers that a busy machine delays.
pub const PATIENCE: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(600)];

/// Probes at a time from one namespace.
const PARALLEL: usize = 96;
const PAYLOAD: &[u8] = b"netpol";

/// Sends `probes` from inside `namespace`, many at a time; one result per probe, in order.
pub fn measure(
    namespace: &Netns,
    probes: &[Probe],
    patience: &[Duration],
) -> io::Result<Vec<Measured>> {
    namespace.run(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(
            stream::iter(probes)
                .map(|probe| one(probe, patience))
                .buffered(PARALLEL)
                .collect(),
        ))
    })
}

async fn one(probe: &Probe, patience: &[Duration]) -> Measured {
    for limit in patience {
        let attempt = async {
            match probe.transport {
                Transport::Tcp(port) => tcp(probe, port).await,
                Transport::Udp(port) => udp(probe, port).await,
                Transport::Sctp(port) => sctp(probe, port).await,
                Transport::Icmp => echo(probe).await,
            }
        };
        match timeout(*limit, attempt).await {
            Ok(Ok(())) => return Measured::Allow,
            // What a TC program drops on the sender's own device is reported to raw and ping sockets
            // as a full queue, which a veth does not have.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Ok(Err(error)) => return Measured::Broken(error.to_string()),
            Err(_) => {}
        }
    }
    Measured::Deny
}

/// Connects and gets an echo, so that packets behind the handshake are probed as well.
async fn tcp(probe: &Probe, port: u16) -> io::Result<()> {
    let socket = match probe.from {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(probe.from, 0))?;
    let mut stream = socket.connect(SocketAddr::new(probe.to, port)).await?;
    stream.write_all(PAYLOAD).await?;
    let mut reply = [0; PAYLOAD.len()];
    stream.read_exact(&mut reply).await?;
    // A reset spares the namespace thousands of sockets in TIME_WAIT.
    stream.set_zero_linger()?;
    Ok(())
}

async fn udp(probe: &Probe, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(probe.from, 0)).await?;
    socket.connect(SocketAddr::new(probe.to, port)).await?;
    let request = nonce();
    socket.send(&request).await?;
    answered(&socket, &request).await
}

/// A payload nobody sent before: an answer to an earlier probe that comes late may find the next
/// socket with the same number.
fn nonce() -> [u8; 8] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes()
}

/// Waits for a datagram that ends in what was sent.
async fn answered(socket: &UdpSocket, sent: &[u8]) -> io::Result<()> {
    let mut reply = [0; 64];
    loop {
        let length = socket.recv(&mut reply).await?;
        if reply[..length].ends_with(sent) {
            return Ok(());
        }
    }
}

async fn sctp(probe: &Probe, port: u16) -> io::Result<()> {
    let socket = raw_sctp(probe.from)?;
    socket.connect(SocketAddr::new(probe.to, 0)).await?;
    // A raw socket hears every association of its two addresses, so the source port must tell them
    // apart; a connected UDP socket is how the kernel hands out a free number.
    let reservation = UdpSocket::bind(SocketAddr::new(probe.from, 0)).await?;
    let from = reservation.local_addr()?.port();
    socket.send(&sctp::init(from, port)).await?;
    let mut buffer = [0; 128];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let packet = sctp_packet(&buffer[..length], probe.from);
        if sctp::is_answer(packet, from, port) {
            return Ok(());
        }
    }
}

/// A ping socket: the kernel sets identifier and checksum, and delivers only matching replies.
async fn echo(probe: &Probe) -> io::Result<()> {
    let (family, protocol, request) = match probe.from {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
    };
    let socket = open(family, SocketType::DGRAM, protocol, probe.from)?;
    socket.connect(SocketAddr::new(probe.to, 0)).await?;
    // Type, code, checksum, identifier and sequence number, data.
    let payload = nonce();
    let mut packet = vec![request, 0, 0, 0, 0, 0, 0, 1];
    packet.extend(payload);
    socket.send(&packet).await?;
    answered(&socket, &payload).await
}

/// A raw SCTP socket at `address`.
pub(super) fn raw_sctp(address: IpAddr) -> io::Result<UdpSocket> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    open(family, SocketType::RAW, ipproto::SCTP, address)
}

/// The SCTP packet in what a socket made by [`raw_sctp`] received.
pub(super) fn sctp_packet(received: &[u8], address: IpAddr) -> &[u8] {
    match address {
        IpAddr::V4(_) => sctp::behind_ipv4_header(received),
        IpAddr::V6(_) => received,
    }
}

/// Any datagram-like socket, dressed as a UDP socket: send and receive are the same calls.
fn open(
    family: AddressFamily,
    kind: SocketType,
    protocol: Protocol,
    address: IpAddr,
) -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(family, kind, flags, Some(protocol))?;
    bind(&socket, &SocketAddr::new(address, 0))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}
