// SPDX-License-Identifier: Apache-2.0
//! An image that follows its tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_ebpf_common::abi::{ROW_CHUNK, ServiceKey};

use super::{
    Capacity, EndpointImage, Image, Reasons, TooLarge,
    addresses::{self, Addresses},
    chunks, largest,
    ports::{self, Ports, port_sets_for},
};
use crate::{
    compile::{ClassId, Delta, PodTable, PortSetId, RowId, Tables},
    model::Protocol,
};

/// Tables laid out for the maps, with what it takes to follow changes of the tables.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Complete between calls; in between, what `addresses` and `ports` hold is moved out.
    pub(super) image: Image,
    addresses: Addresses,
    ports: Ports,
}

impl Lowered {
    /// Lays `tables` out. Reason ids are taken from `reasons`, which starts over if it is full of
    /// decisions of the past.
    pub fn new(
        tables: &Tables,
        capacity: &Capacity,
        reasons: &mut Reasons,
    ) -> Result<Self, TooLarge> {
        let check = |map, needed: usize, capacity: u32| {
            let capacity = capacity as usize;
            if needed <= capacity {
                return Ok(());
            }
            Err(TooLarge {
                map,
                needed,
                capacity,
                policies: largest(tables),
            })
        };
        // Reason 0 is none, and the two reserved decisions have none.
        check("RULE_COUNTERS", tables.decisions.len(), capacity.reasons)?;
        if reasons.decisions.len() + tables.decisions.len() >= capacity.reasons as usize {
            *reasons = Reasons::default();
        }
        let row_chunks = (tables.classes as usize).div_ceil(ROW_CHUNK);
        check("classes", tables.classes as usize, u32::from(u16::MAX))?;
        check("rows", tables.rows.len(), u32::from(u16::MAX))?;
        check("ROWS", row_chunks * tables.rows.len(), capacity.rows)?;
        check("SERVICES", tables.services.len(), capacity.services)?;

        let mut ports = ports::lower(tables, reasons);
        check("UNIFORM", ports.uniform.entries.len(), capacity.uniform)?;
        check(
            "PORT_SETS",
            ports.port_sets.entries.len(),
            capacity.port_sets,
        )?;
        let mut addresses = addresses::lower(tables);
        check("TRIE4", addresses.trie4.nodes.len(), capacity.trie4)?;
        check("TRIE6", addresses.trie6.nodes.len(), capacity.trie6)?;
        check("HOSTS6", addresses.hosts6.len(), capacity.hosts6)?;

        let mut image = Image {
            row_chunks: u32::try_from(row_chunks).unwrap_or(u32::MAX),
            ..Image::default()
        };
        lay_out_rows(&mut image, tables, &ports);
        for (key, class) in &tables.services {
            image.services.insert(service_key(*key), class.0);
        }
        for (key, pod) in &tables.pods {
            image.endpoints.insert(key.clone(), endpoint(pod, &ports));
        }
        swap(&mut image, &mut addresses, &mut ports);
        Ok(Self {
            image,
            addresses,
            ports,
        })
    }

    /// One bank of every banked map.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Follows a change of the tables. `None` if that is not sure to fit or takes another layout: then
    /// [`Self::new`] says what the tables take.
    #[must_use]
    pub fn follow(
        mut self,
        tables: &Tables,
        delta: &Delta,
        capacity: &Capacity,
        reasons: &mut Reasons,
    ) -> Option<Self> {
        swap(&mut self.image, &mut self.addresses, &mut self.ports);
        let follows =
            delta.blocks.is_empty() || self.addresses.follow_blocks(&delta.blocks, tables);
        if !follows || !self.fits(tables, delta, capacity, reasons) {
            return None;
        }
        self.change(tables, delta, reasons);
        if !self.addresses.are_within(capacity) {
            return None;
        }
        swap(&mut self.image, &mut self.addresses, &mut self.ports);
        Some(self)
    }

    fn fits(&self, tables: &Tables, delta: &Delta, capacity: &Capacity, reasons: &Reasons) -> bool {
        let runs = |id: &PortSetId| {
            let map = tables.port_sets.get(id.0 as usize);
            map.map_or(0, |map| map.runs().len())
        };
        let runs: Vec<usize> = delta.port_sets.iter().map(runs).collect();
        let port_sets: usize = runs.iter().map(|runs| port_sets_for(*runs)).sum();
        let decisions: usize = runs.iter().sum();
        let services = delta.services.iter().map(|(address, ..)| address);
        let addresses = delta.hosts.iter().chain(services);
        let chunks = self.image.row_chunks as usize;
        self.addresses.is_padded_for(tables)
            && self.addresses.have_buckets_for(addresses)
            && self.ports.uniform.room(capacity.uniform) >= runs.len()
            && self.ports.port_sets.room(capacity.port_sets) >= port_sets
            && reasons.decisions.len() + decisions < capacity.reasons as usize
            && tables.classes as usize <= chunks * ROW_CHUNK
            && u16::try_from(tables.rows.len()).is_ok()
            && tables.rows.len() * chunks <= capacity.rows as usize
            && tables.services.len() <= capacity.services as usize
    }

    fn change(&mut self, tables: &Tables, delta: &Delta, reasons: &mut Reasons) {
        let Self {
            image,
            addresses,
            ports,
        } = self;
        for id in &delta.unused_port_sets {
            ports.release(*id);
        }
        for id in &delta.port_sets {
            ports.set(*id, tables, reasons);
        }
        for key in &delta.services {
            let to = service_key(*key);
            let before = match tables.services.get(key) {
                Some(class) => image.services.insert(to, class.0),
                None => image.services.remove(&to),
            };
            match (before, tables.services.get(key)) {
                (None, Some(_)) => addresses.count_service(key.0, 1),
                (Some(_), None) => addresses.count_service(key.0, -1),
                _ => {}
            }
            addresses.follow(key.0, tables);
        }
        for address in &delta.hosts {
            addresses.follow(*address, tables);
        }
        let chunks_per_row = image.row_chunks as usize;
        image.rows.truncate(tables.rows.len() * chunks_per_row);
        for row in (image.rows.len() / chunks_per_row.max(1)..tables.rows.len())
            .chain(delta.rows.iter().map(|RowId(row)| *row as usize))
        {
            let Some(known) = tables.rows.get(row) else {
                continue;
            };
            let first = row * chunks_per_row;
            let spelled = chunks(known, chunks_per_row, &|id| entry(ports, id));
            match image.rows.get_mut(first..first + chunks_per_row) {
                Some(to) => to.copy_from_slice(&spelled),
                None => image.rows.extend(spelled),
            }
        }
        for (RowId(row), class) in &delta.cells {
            let (chunk, at) = (class.0 as usize / ROW_CHUNK, class.0 as usize % ROW_CHUNK);
            // A class that came and went since is beyond the row's end, where the next row begins.
            if chunk >= chunks_per_row {
                continue;
            }
            let chunk = image.rows.get_mut(*row as usize * chunks_per_row + chunk);
            if let Some(to) = chunk.and_then(|chunk| chunk.entries.get_mut(at)) {
                *to = entry(ports, tables.port_set(RowId(*row), *class));
            }
        }
        for key in &delta.pods {
            match tables.pods.get(key) {
                Some(pod) => image.endpoints.insert(key.clone(), endpoint(pod, ports)),
                None => image.endpoints.remove(key),
            };
        }
    }
}

/// Exchanges what the image holds of addresses and ports with what they hold themselves.
fn swap(image: &mut Image, addresses: &mut Addresses, ports: &mut Ports) {
    std::mem::swap(&mut image.trie4, &mut addresses.trie4.nodes);
    std::mem::swap(&mut image.trie6, &mut addresses.trie6.nodes);
    std::mem::swap(&mut image.hosts6, &mut addresses.hosts6);
    std::mem::swap(&mut image.uniform, &mut ports.uniform.entries);
    std::mem::swap(&mut image.port_sets, &mut ports.port_sets.entries);
}

fn lay_out_rows(image: &mut Image, tables: &Tables, ports: &Ports) {
    let count = image.row_chunks as usize;
    let rows = tables.rows.iter();
    image.rows = rows
        .flat_map(|row| chunks(row, count, &|id| entry(ports, id)))
        .collect();
}

fn entry(ports: &Ports, port_set: PortSetId) -> u16 {
    let entry = ports.entries.get(port_set.0 as usize);
    entry.map_or(0, |entry| entry.0)
}

fn service_key((address, protocol, port): (IpAddr, Protocol, u16)) -> ServiceKey {
    ServiceKey {
        address: match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        },
        port: port.to_be_bytes(),
        // IANA protocol numbers; a Service has no other protocol.
        protocol: match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Other => 0,
        },
        bank: 0,
    }
}

fn endpoint(pod: &PodTable, ports: &Ports) -> EndpointImage {
    let pair = |low: u32, high: u32| (low & 0xffff) | high << 16;
    let row = |row: Option<RowId>| row.map_or(0, |RowId(row)| row);
    let own = |(ingress, egress)| pair(entry(ports, ingress).into(), entry(ports, egress).into());
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: &IpAddr| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    };
    let ipv4: Option<Ipv4Addr> = pod.addresses.iter().find_map(v4);
    let ipv6: Option<Ipv6Addr> = pod.addresses.iter().find_map(v6);
    let [ClassId(class4), ClassId(class6)] = pod.classes;
    EndpointImage {
        rows: pair(row(pod.ingress), row(pod.egress)),
        own4: own(pod.own[0]),
        own6: own(pod.own[1]),
        classes: pair(class4, class6),
        ipv4,
        ipv6,
    }
}
