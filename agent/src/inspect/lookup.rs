// SPDX-License-Identifier: Apache-2.0
//! What would the loaded tables do with the first packet of a flow, and by which entries?

use std::{fmt, net::IpAddr};

use policy_ebpf_common::{
    abi::{
        CLASS_HOST, Cell, ENDPOINT_QUARANTINE, Endpoint, PORT_PROTOCOL_OTHER, PORT_PROTOCOL_SCTP,
        PORT_PROTOCOL_TCP, PORT_PROTOCOL_UDP, ServiceKey, port_key,
    },
    flow::Direction,
    lookup::{Bank, Tables, cell_of_entry, entry_of_class, word_of},
    parse::Address,
};

/// The first packet of a flow, seen from a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which way it crosses the interface.
    pub direction: Direction,
    /// The other end; `None` for the node's own network stack.
    pub peer: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
}

/// A step of the lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The map that was read.
    pub map: &'static str,
    /// What was found, where.
    pub found: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:10} {}", self.map, self.found)
    }
}

/// The answer, with the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    /// Every lookup, in order.
    pub steps: Vec<Step>,
    /// The deciding cell; `None` if no policy concerns the pod in this direction.
    pub cell: Option<Cell>,
    /// Whether the interface is closed, whatever the tables say.
    pub quarantined: bool,
}

impl Verdicts {
    /// `allow`, `deny`, or `defer` for a Service whose backends differ.
    pub fn verdict(&self) -> &'static str {
        match self.cell.map(Cell::action) {
            None | Some(Cell::ALLOW) if !self.quarantined => "allow",
            Some(Cell::DEFER) if !self.quarantined => "defer",
            _ => "deny",
        }
    }
}

/// Looks the question up in `tables` the way the programs do.
pub fn explain<T: Tables>(
    tables: &T,
    bank: &Bank,
    endpoint: &Endpoint,
    question: &Question,
) -> Verdicts {
    let mut steps = Vec::new();
    let mut step = |map, found: String| steps.push(Step { map, found });
    let Question {
        direction,
        peer,
        protocol,
        port,
    } = *question;

    let [low, high] = halves(endpoint.rows[bank.number as usize & 1]);
    let row = match direction {
        Direction::Ingress => low,
        Direction::Egress => high,
    };
    step(
        "CONFIG",
        format!("bank {}, generation {}", bank.number, bank.generation),
    );
    step(
        "ENDPOINTS",
        format!(
            "interface {}, id {}, row {row}",
            endpoint.ifindex, endpoint.id
        ),
    );
    let quarantined = endpoint.flags & ENDPOINT_QUARANTINE != 0;
    if row == 0 {
        return Verdicts {
            steps,
            cell: None,
            quarantined,
        };
    }

    let class = match peer {
        None => CLASS_HOST,
        Some(peer) => {
            let (address, map) = match peer {
                IpAddr::V4(v4) => (Address::v4(v4.octets()), "TRIE4"),
                IpAddr::V6(v6) => (Address::v6(v6.octets()), "HOSTS6"),
            };
            let word = word_of(tables, bank, &address, peer.is_ipv6());
            step(map, format!("{peer} is of class {}", word.class()));
            let key = ServiceKey {
                address: address.octets(),
                port: port.to_be_bytes(),
                protocol,
                bank: u8::from(bank.number != 0),
            };
            match tables.service(&key) {
                Some(class) if word.is_service() && direction == Direction::Egress => {
                    step(
                        "SERVICES",
                        format!("{peer} port {port} is of class {class}"),
                    );
                    u16::try_from(class).unwrap_or_default()
                }
                _ => word.class(),
            }
        }
    };
    let entry = entry_of_class(tables, bank, row, class);
    step(
        "ROWS",
        format!("row {row}, class {class}: entry {:#06x}", entry.0),
    );
    let key = match protocol {
        6 => port_key(PORT_PROTOCOL_TCP, port),
        17 => port_key(PORT_PROTOCOL_UDP, port),
        132 => port_key(PORT_PROTOCOL_SCTP, port),
        _ => port_key(PORT_PROTOCOL_OTHER, 0),
    };
    let cell = cell_of_entry(tables, bank, entry, key);
    let place = match entry.as_uniform() {
        Some(index) => ("UNIFORM", format!("cell {index}")),
        None => ("PORT_SETS", format!("port set {}, key {key:#07x}", entry.0)),
    };
    step(
        place.0,
        format!(
            "{}: action {}, tier {}, reason {}",
            place.1,
            cell.action(),
            cell.tier(),
            cell.reason()
        ),
    );
    Verdicts {
        steps,
        cell: Some(cell),
        quarantined,
    }
}

/// The low and the high half of a word.
pub fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
