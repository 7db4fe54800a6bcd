// SPDX-License-Identifier: Apache-2.0
//! Who answers the probes?

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, UdpSocket},
    runtime::{Builder, Handle},
    sync::oneshot,
};

use super::{
    plan::Transport,
    probe::{raw_sctp, sctp_packet},
    sctp,
};
use crate::net::Netns;

/// Echo servers in many namespaces, on one thread; dropping them closes their sockets.
#[derive(Debug)]
pub struct Servers {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Servers {
    /// Starts with no server.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("echo".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Answers `transports` at `address` inside `namespace`. Echo requests are the kernel's business.
    pub fn add(
        &self,
        namespace: &Netns,
        address: IpAddr,
        transports: &BTreeSet<Transport>,
    ) -> Result<()> {
        let mut has_sctp = false;
        for transport in transports {
            let opened = match *transport {
                Transport::Tcp(port) => self
                    .open(namespace, || {
                        let socket = match address {
                            IpAddr::V4(_) => TcpSocket::new_v4()?,
                            IpAddr::V6(_) => TcpSocket::new_v6()?,
                        };
                        socket.set_reuseaddr(true)?;
                        socket.bind(SocketAddr::new(address, port))?;
                        socket.listen(1024)
                    })
                    .map(|listener| drop(self.handle.spawn(echo_streams(listener)))),
                Transport::Udp(port) => self
                    .open(namespace, || {
                        let socket = std::net::UdpSocket::bind(SocketAddr::new(address, port))?;
                        socket.set_nonblocking(true)?;
                        UdpSocket::from_std(socket)
                    })
                    .map(|socket| drop(self.handle.spawn(echo_datagrams(socket)))),
                Transport::Sctp(_) if !has_sctp => {
                    has_sctp = true;
                    self.open(namespace, || raw_sctp(address))
                        .map(|socket| drop(self.handle.spawn(answer_inits(socket, address))))
                }
                Transport::Sctp(_) | Transport::Icmp => Ok(()),
            };
            opened.with_context(|| format!("cannot serve {transport:?} at {address}"))?;
        }
        Ok(())
    }

    fn open<T: Send>(
        &self,
        namespace: &Netns,
        open: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        namespace.run(|| {
            let _guard = self.handle.enter();
            open()
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn echo_streams(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = [0; 9000];
    loop {
        // Errors are ICMP answers to earlier echoes: somebody stopped listening.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], peer).await;
        }
    }
}

async fn answer_inits(socket: UdpSocket, address: IpAddr) {
    let mut buffer = [0; 256];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await
            && let Some(answer) = sctp::answer(sctp_packet(&buffer[..length], address))
        {
            let _ = socket.send_to(&answer, SocketAddr::new(peer.ip(), 0)).await;
        }
    }
}
