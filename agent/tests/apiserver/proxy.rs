// SPDX-License-Identifier: Apache-2.0
//! A network between an agent and its API server that misbehaves on demand.

use std::{io, net::Ipv4Addr, time::Duration};

use agent::net::Netns;
use kube::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use crate::control_plane::ControlPlane;

/// What happens to the bytes of every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// They arrive.
    Fair,
    /// They arrive a few at a time: so many bytes, then so long a pause.
    Slow(usize, Duration),
    /// They are lost without a word; connections stay open, and those that were open stay lost for ever.
    Cut,
}

/// A client of somebody who may do everything, with such a network in between; it takes a connection
/// that is silent for longer than `quiet` to be dead.
pub(crate) async fn client(
    plane: &ControlPlane,
    weather: Weather,
    quiet: Duration,
) -> (Proxy, Client) {
    let mut config = plane.config_of("admin");
    let port = config.cluster_url.port_u16().unwrap();
    let proxy = Proxy::start(port, weather).await;
    let url = format!("https://127.0.0.1:{}", proxy.port);
    config.cluster_url = url.parse().unwrap();
    (proxy, agent::kubernetes::client(config, quiet).unwrap())
}

/// Forwards connections to a local port.
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `port` of this machine.
    async fn start(port: u16, weather: Weather) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::serve(listener, port, weather)
    }

    /// A proxy in front of `port` of this machine for the programs in `netns`, where the loopback device
    /// is up, at the same address.
    pub(crate) fn inside(netns: &Netns, port: u16) -> Self {
        let listener = netns.run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::serve(
            TcpListener::from_std(listener).unwrap(),
            port,
            Weather::Fair,
        )
    }

    fn serve(listener: TcpListener, port: u16, weather: Weather) -> Self {
        let address = listener.local_addr().unwrap();
        let (weather, told) = watch::channel(weather);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, port, told.clone()));
            }
        });
        Self {
            port: address.port(),
            weather,
            accepting,
        }
    }

    /// Changes the weather for every connection.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(client: TcpStream, port: u16, weather: watch::Receiver<Weather>) {
    let lost = lost(weather.clone());
    let forwarded = async {
        // What is not read is not sent: else the server were done long before its client.
        let server = TcpSocket::new_v4()?;
        server.set_recv_buffer_size(8 * 1024)?;
        let server = server.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::try_join!(
            forward(&mut from_client, &mut to_server, &weather),
            forward(&mut from_server, &mut to_client, &weather),
        )
        .map(|_| ())
    };
    tokio::pin!(forwarded);
    tokio::select! {
        _ = &mut forwarded => {}
        // The sockets stay open and silent as long as the proxy lives.
        () = lost => std::future::pending().await,
    }
}

/// Returns once a connection is lost, for good.
async fn lost(mut weather: watch::Receiver<Weather>) {
    if weather.wait_for(|now| *now == Weather::Cut).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn forward(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    weather: &watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (share, pause) = match *weather.borrow() {
            Weather::Slow(bytes, pause) => (bytes.min(buffer.len()), pause),
            Weather::Fair | Weather::Cut => (buffer.len(), Duration::ZERO),
        };
        let read = from.read(&mut buffer[..share]).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        sleep(pause).await;
    }
}
