// SPDX-License-Identifier: Apache-2.0
//! How long does a packet take, there and back?
//!
//! Client and server run on one CPU in turns, at a real-time priority where the machine grants one: the
//! middle of many transactions is the CPU's whole work for one of them, and nothing else.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::world::{CLIENT, World};

/// Real-time priority of client and server: above anything that is not real-time.
const PRIORITY: libc::c_int = 10;
/// Packets between two looks at the clock.
const BATCH: u32 = 64;
/// As much as a request that fits into the smallest Ethernet frame carries.
const SMALL: [u8; 18] = [0x6e; 18];
/// How long the one answer of a UDP flow may take, and how often it is asked for: what is left in a
/// queue from before may displace it.
const ANSWER: Duration = Duration::from_millis(200);
const ATTEMPTS: usize = 25;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Request and response of one byte over an open connection.
    TcpRr,
    /// The same with a connection of its own for each request.
    TcpCrr,
    /// As much as goes through one connection.
    TcpStream,
    /// Small datagrams of a flow that is never answered.
    UdpNew,
    /// Small datagrams of a flow that was answered once.
    UdpAnswered,
    /// Small datagrams to the forbidden port: the sender's cost.
    DeniedFlood,
}

/// One quantity of a reading: its name, its unit, how much.
pub(crate) type Quantity = (&'static str, &'static str, f64);

impl Measure {
    /// All there are.
    pub(crate) const ALL: [Self; 6] = [
        Self::TcpRr,
        Self::TcpCrr,
        Self::TcpStream,
        Self::UdpNew,
        Self::UdpAnswered,
        Self::DeniedFlood,
    ];

    /// Measures for about `time` on this CPU.
    pub(crate) fn take(
        self,
        world: &World,
        cpu: usize,
        time: Duration,
    ) -> io::Result<Vec<Quantity>> {
        let udp = |to, is_answered| datagrams(world, cpu, time, to, is_answered);
        match self {
            Self::TcpRr => Ok(vec![("tcp_rr", "us", request_response(world, cpu, time)?)]),
            Self::TcpCrr => {
                let (middle, rate) = connect_request_response(world, cpu, time)?;
                Ok(vec![
                    ("tcp_crr", "us", middle),
                    ("connections", "1/s", rate),
                ])
            }
            Self::TcpStream => Ok(vec![("tcp_stream", "Gbit/s", stream(world, cpu, time)?)]),
            Self::UdpNew => Ok(vec![("udp_new", "ns", udp(World::allowed(), false)?)]),
            Self::UdpAnswered => Ok(vec![("udp_answered", "ns", udp(World::allowed(), true)?)]),
            Self::DeniedFlood => Ok(vec![("flood", "ns", udp(World::forbidden(), false)?)]),
        }
    }
}

/// Keeps the calling thread on `cpu`, at a real-time priority. Says whether it got the priority.
pub(crate) fn pin(cpu: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(cpu);
    let is_pinned = sched_setaffinity(None, &only).is_ok();
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the kernel reads the structure during the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    is_pinned && result == 0
}

fn request_response(world: &World, cpu: usize, time: Duration) -> io::Result<f64> {
    let listener = world.server.run(|| TcpListener::bind(World::allowed()))?;
    let client = || {
        let mut stream = world.client.run(|| TcpStream::connect(World::allowed()))?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 1];
        for _ in 0..BATCH {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
        }
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let sent = Instant::now();
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            times.push(sent.elapsed());
        }
        Ok(micros(middle(times)?))
    };
    let server = || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 1];
        while stream.read(&mut buffer)? == 1 {
            stream.write_all(&buffer)?;
        }
        Ok(())
    };
    both(cpu, &listener, client, server)
}

/// The middle time of a connection in microseconds, and connections per second.
fn connect_request_response(world: &World, cpu: usize, time: Duration) -> io::Result<(f64, f64)> {
    let listener = world.server.run(|| TcpListener::bind(World::allowed()))?;
    let client = || {
        world.client.enter()?;
        let once = || {
            let mut buffer = [0; 1];
            let mut stream = TcpStream::connect(World::allowed())?;
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)
        };
        for _ in 0..BATCH {
            once()?;
        }
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let begun = Instant::now();
            once()?;
            times.push(begun.elapsed());
        }
        let total = start.elapsed().as_secs_f64();
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        Ok((micros(middle(times)?), f64::from(count) / total))
    };
    let server = || {
        let mut buffer = [0; 1];
        // Ends when the listener is shut down.
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.read(&mut buffer)? == 1 {
                stream.write_all(&buffer)?;
            }
        }
        Ok(())
    };
    both(cpu, &listener, client, server)
}

/// Gigabits per second through one connection.
fn stream(world: &World, cpu: usize, time: Duration) -> io::Result<f64> {
    const CHUNK: usize = 64 * 1024;
    let listener = world.server.run(|| TcpListener::bind(World::allowed()))?;
    let client = || {
        let mut stream = world.client.run(|| TcpStream::connect(World::allowed()))?;
        let chunk = vec![0; CHUNK];
        let start = Instant::now();
        while start.elapsed() < time {
            stream.write_all(&chunk)?;
        }
        stream.shutdown(Shutdown::Write)?;
        // The server answers when it has read everything.
        let mut count = [0; 8];
        stream.read_exact(&mut count)?;
        let kibibytes = u32::try_from(u64::from_be_bytes(count) / 1024).unwrap_or(u32::MAX);
        let bits = f64::from(kibibytes) * 1024.0 * 8.0;
        Ok(bits / start.elapsed().as_secs_f64() / 1e9)
    };
    let server = || {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 4 * CHUNK];
        let mut total = 0_u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => total += length as u64,
            }
        }
        stream.write_all(&total.to_be_bytes())
    };
    both(cpu, &listener, client, server)
}

/// Nanoseconds per datagram, the sender's and the network's work together: on one CPU the datagram has
/// arrived, or has been dropped, when the sender gets to the next one. Nobody reads; what arrives beyond
/// the receiver's buffer is thrown away there.
fn datagrams(
    world: &World,
    cpu: usize,
    time: Duration,
    to: SocketAddr,
    is_answered: bool,
) -> io::Result<f64> {
    let receiver = world.server.run(|| UdpSocket::bind(to))?;
    let sender = world.client.run(|| UdpSocket::bind((CLIENT, 0)))?;
    if is_answered {
        receiver.set_read_timeout(Some(ANSWER))?;
        sender.set_read_timeout(Some(ANSWER))?;
        let exchange = || {
            let mut buffer = SMALL;
            sender.send_to(&SMALL, to)?;
            let (length, from) = receiver.recv_from(&mut buffer)?;
            receiver.send_to(&buffer[..length], from)?;
            sender.recv_from(&mut buffer)
        };
        let mut exchanges = (0..ATTEMPTS).map(|_| exchange());
        if !exchanges.any(|exchange| exchange.is_ok()) {
            return Err(io::Error::other("a datagram is never answered"));
        }
    }
    on_thread(|| {
        pin(cpu);
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let begun = Instant::now();
            for _ in 0..BATCH {
                // What is rejected is no error of a socket without a connection.
                sender.send_to(&SMALL, to)?;
            }
            times.push(begun.elapsed() / BATCH);
        }
        Ok(middle(times)?.as_secs_f64() * 1e9)
    })
}

/// Runs client and server on `cpu` until the client is done.
fn both<T: Send>(
    cpu: usize,
    listener: &TcpListener,
    client: impl FnOnce() -> io::Result<T> + Send,
    server: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            pin(cpu);
            server()
        });
        let result = on_thread(|| {
            pin(cpu);
            client()
        });
        // Whoever still waits for a connection waits in vain.
        let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        let served = serving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The client's error explains the server's.
        let result = result?;
        served?;
        Ok(result)
    })
}

fn on_thread<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(action);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn middle(mut times: Vec<Duration>) -> io::Result<Duration> {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied();
    middle.ok_or_else(|| io::Error::other("nothing was measured"))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
