// SPDX-License-Identifier: Apache-2.0
//! Which packets are judged, and what is to become of them?

use std::net::{Ipv4Addr, Ipv6Addr};

use agent::datapath::Hook;
use etherparse::PacketBuilder;
use policy_ebpf_common::decide::Outcome;

use crate::cluster::{DATABASE, DNS, FREE, HTTP, SERVER};

/// What a packet is, seen from the pod that judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A segment of an open connection, to the pod.
    Forward,
    /// A segment of an open connection, from the pod that opened it.
    Outward,
    /// A segment from the pod that only the connection explains.
    Reply,
    /// An initial SYN that is admitted; every one a new connection.
    Opening,
    /// An initial SYN that is denied.
    Denied,
    /// A datagram to the pod.
    Datagram,
    /// A datagram from the pod that only the one before it explains.
    Answer,
    /// A segment to a pod that no policy concerns.
    Unisolated,
}

/// A packet to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) shape: Shape,
    pub(crate) ipv6: bool,
}

impl Packet {
    /// What is measured of open connections, and what once every packet opens one: connection
    /// tracking has forgotten the others by then.
    pub(crate) fn open() -> impl Iterator<Item = Self> {
        use Shape::{Answer, Datagram, Denied, Forward, Outward, Reply, Unisolated};
        Self::both([
            Unisolated, Forward, Outward, Reply, Denied, Datagram, Answer,
        ])
    }

    /// See [`Self::open`].
    pub(crate) fn new() -> impl Iterator<Item = Self> {
        Self::both([Shape::Opening])
    }

    fn both<const N: usize>(shapes: [Shape; N]) -> impl Iterator<Item = Self> {
        [false, true]
            .into_iter()
            .flat_map(move |ipv6| shapes.map(|shape| Self { shape, ipv6 }))
    }

    /// The name in reports, `to_pod/forward/v4`.
    pub(crate) fn name(self) -> String {
        let shape = format!("{:?}", self.shape).to_lowercase();
        let family = if self.ipv6 { "v6" } else { "v4" };
        format!("{}/{shape}/{family}", self.hook().name())
    }

    pub(crate) fn hook(self) -> Hook {
        match self.shape {
            Shape::Outward | Shape::Reply | Shape::Answer => Hook::FromPod,
            _ => Hook::ToPod,
        }
    }

    /// What has to become of it, else something else is measured.
    pub(crate) fn outcome(self) -> Outcome {
        match self.shape {
            Shape::Forward | Shape::Outward | Shape::Opening | Shape::Datagram => Outcome::Allowed,
            Shape::Reply | Shape::Answer => Outcome::Established,
            Shape::Denied => Outcome::Denied,
            Shape::Unisolated => Outcome::Unenforced,
        }
    }

    /// The packet that opens the flow, if it has to be open.
    pub(crate) fn opener(self) -> Option<Self> {
        let shape = match self.shape {
            Shape::Reply => Shape::Opening,
            Shape::Answer => Shape::Datagram,
            _ => return None,
        };
        Some(Self { shape, ..self })
    }

    /// The frame, to or from a peer that `spread` fills in.
    pub(crate) fn frame(self) -> Vec<u8> {
        const PEER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let pod = if self.shape == Shape::Unisolated {
            FREE
        } else {
            SERVER
        };
        let (from, to) = match self.hook() {
            Hook::FromPod => (pod, PEER),
            _ => (PEER, pod),
        };
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = if self.ipv6 {
            builder.ipv6(from.1.octets(), to.1.octets(), 64)
        } else {
            builder.ipv4(from.0.octets(), to.0.octets(), 64)
        };
        let payload = [0; 20];
        let mut frame = Vec::new();
        let (from_port, to_port) = match self.shape {
            Shape::Forward | Shape::Opening | Shape::Unisolated => (0, HTTP),
            Shape::Denied => (0, HTTP + 1),
            Shape::Outward => (0, DATABASE),
            Shape::Reply => (HTTP, 0),
            Shape::Datagram => (0, DNS),
            Shape::Answer => (DNS, 0),
        };
        match self.shape {
            Shape::Datagram | Shape::Answer => builder
                .udp(from_port, to_port)
                .write(&mut frame, &payload)
                .expect("a vector takes all"),
            _ => {
                let builder = builder.tcp(from_port, to_port, 1, 1000);
                let builder = match self.shape {
                    Shape::Opening | Shape::Denied => builder.syn(),
                    _ => builder.ack(1),
                };
                builder
                    .write(&mut frame, &payload)
                    .expect("a vector takes all");
            }
        }
        frame
    }

    /// The bits of `PLAN` in `policy-ebpf/src/bin/reference.rs`.
    pub(crate) fn plan(self) -> u32 {
        const TO_PEER: u32 = 1 << 0;
        const IPV6: u32 = 1 << 1;
        const FRESH: u32 = 1 << 2;
        const OWN_PORT: u32 = 1 << 3;
        let mut bits = 0;
        if self.hook() == Hook::FromPod {
            bits |= TO_PEER;
        }
        if self.ipv6 {
            bits |= IPV6;
        }
        if self.shape == Shape::Opening {
            bits |= FRESH;
        }
        // The rule is about the peer's port.
        if self.shape == Shape::Outward {
            bits |= OWN_PORT;
        }
        bits
    }
}
