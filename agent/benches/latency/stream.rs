// SPDX-License-Identifier: Apache-2.0
//! A stream of datagrams between two pods, which shows to a fraction of a millisecond when a verdict
//! changes.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agent::net::Netns;

/// Pause between two datagrams.
const PAUSE: Duration = Duration::from_micros(200);
/// How long a datagram may be underway.
const UNDERWAY: Duration = Duration::from_millis(15);
/// So many datagrams in a row make a verdict.
const STEADY: usize = 10;
const PORT: u16 = 4040;

/// Datagrams that are sent until the stream is dropped.
pub(crate) struct Stream {
    log: Arc<Mutex<Vec<Datagram>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Datagram {
    sent: Instant,
    arrived: bool,
}

impl Stream {
    /// Sends from `from` in one namespace to `to` in another.
    pub(crate) fn start(source: (&Netns, IpAddr), destination: (&Netns, IpAddr)) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let receiver = socket(destination.0, destination.1, PORT);
        let sender = socket(source.0, source.1, 0);
        let to = SocketAddr::new(destination.1, PORT);
        let receiving = {
            let (log, stop) = (log.clone(), stop.clone());
            thread::spawn(move || receive(&receiver, &log, &stop))
        };
        let sending = {
            let (log, stop) = (log.clone(), stop.clone());
            thread::spawn(move || send(&sender, to, &log, &stop))
        };
        Self {
            log,
            stop,
            threads: vec![receiving, sending],
        }
    }

    /// When the first of the datagrams was sent that now steadily pass, or do not; `None` if it is the
    /// other way round or not decided yet.
    pub(crate) fn since(&self, passes: bool) -> Option<Instant> {
        let log = self.log.lock().expect("no panic");
        let now = Instant::now();
        let settled = log.partition_point(|datagram| now - datagram.sent >= UNDERWAY);
        let settled = &log[..settled];
        let steady = settled
            .iter()
            .rev()
            .take_while(|datagram| datagram.arrived == passes)
            .count();
        (steady >= STEADY).then(|| settled[settled.len() - steady].sent)
    }

    /// When the datagrams were sent that have arrived so far.
    pub(crate) fn arrived(&self) -> Vec<Instant> {
        let log = self.log.lock().expect("no panic");
        let arrived = log.iter().filter(|datagram| datagram.arrived);
        arrived.map(|datagram| datagram.sent).collect()
    }

    /// Datagrams that have been sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.log.lock().expect("no panic").len()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn socket(namespace: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, port)));
    let socket = socket.expect("the address is the pod's");
    let timeout = socket.set_read_timeout(Some(Duration::from_millis(50)));
    timeout.expect("sockets have timeouts");
    socket
}

fn send(socket: &UdpSocket, to: SocketAddr, log: &Mutex<Vec<Datagram>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut log = log.lock().expect("no panic");
            log.push(Datagram {
                sent: Instant::now(),
                arrived: false,
            });
            u32::try_from(log.len() - 1).expect("a stream ends before that")
        };
        // What cannot be sent does not arrive.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        thread::sleep(PAUSE);
    }
}

fn receive(socket: &UdpSocket, log: &Mutex<Vec<Datagram>>, stop: &AtomicBool) {
    let mut number = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut number) {
            Ok(4) => {
                let number = u32::from_be_bytes(number) as usize;
                let mut log = log.lock().expect("no panic");
                if let Some(datagram) = log.get_mut(number) {
                    datagram.arrived = true;
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}
