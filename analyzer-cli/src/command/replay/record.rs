// SPDX-License-Identifier: Apache-2.0
//! Which flow does a line tell of? Our own lines, Hubble's flows and the agent's events.

use policy_compiler::model::{Family, Protocol};
use serde_json::Value;

use crate::flow::protocol_of;

/// A flow as a line tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// An identifier other than `id`.
    pub id: Option<Value>,
    /// Who opened the connection.
    pub src: String,
    /// Who it was opened to.
    pub dst: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Protocol, as written.
    pub protocol_name: String,
    /// Destination port.
    pub port: Option<u16>,
    /// Destination port, if a name is written.
    pub port_name: Option<String>,
    /// Address family, if written.
    pub family: Option<Family>,
    /// The source addressed a Service.
    pub via_service: bool,
    /// What happened to it, if that is known: `allowed` or `denied`.
    pub observed: Option<&'static str>,
}

impl Record {
    /// Reads a line.
    pub fn read(value: &Value) -> Result<Self, String> {
        let Some(object) = value.as_object() else {
            return Err("expected an object".to_owned());
        };
        // `hubble observe -o json` wraps every flow.
        if let Some(flow) = object.get("flow").filter(|flow| flow.is_object()) {
            return Self::hubble(flow);
        }
        if object.contains_key("l4") || object.contains_key("IP") {
            return Self::hubble(value);
        }
        Self::own(value)
    }

    /// The port as it is echoed.
    pub fn port_value(&self) -> Value {
        match (&self.port, &self.port_name) {
            (Some(port), _) => Value::from(*port),
            (None, Some(name)) => Value::from(name.as_str()),
            (None, None) => Value::Null,
        }
    }

    /// `{"src":"x/a","dst":"y/b","protocol":"TCP","port":80}`
    fn own(value: &Value) -> Result<Self, String> {
        let end = |names: [&str; 2]| {
            let found = names
                .iter()
                .find_map(|name| value.get(*name).filter(|end| !end.is_null()));
            match found {
                None => Err(format!("`{}` is missing", names[0])),
                Some(Value::String(text)) => Ok(text.clone()),
                Some(Value::Object(end)) => {
                    let part = |name: &str| end.get(name).and_then(Value::as_str);
                    match (
                        part("namespace"),
                        part("pod").or_else(|| part("name")),
                        part("ip"),
                    ) {
                        (Some(namespace), Some(pod), _) => Ok(format!("{namespace}/{pod}")),
                        (_, _, Some(ip)) => Ok(ip.to_owned()),
                        _ => Err(format!("`{}` names neither a pod nor an address", names[0])),
                    }
                }
                Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
                    Err(format!("`{}` is no string", names[0]))
                }
            }
        };
        let (protocol, protocol_name) = match value.get("protocol") {
            None | Some(Value::Null) => (Protocol::Tcp, "TCP".to_owned()),
            Some(Value::String(text)) => match protocol_of(text) {
                Some(protocol) => (protocol, text.clone()),
                // Other protocols of the Internet are all alike to policies.
                None if is_internet_protocol(text) => (Protocol::Other, text.clone()),
                None => return Err(format!("`{text}` is no protocol")),
            },
            Some(Value::Number(number)) => match number.as_u64() {
                Some(6) => (Protocol::Tcp, "TCP".to_owned()),
                Some(17) => (Protocol::Udp, "UDP".to_owned()),
                Some(132) => (Protocol::Sctp, "SCTP".to_owned()),
                Some(0..=255) => (Protocol::Other, number.to_string()),
                _ => return Err(format!("`{number}` is no protocol")),
            },
            Some(other) => return Err(format!("`{other}` is no protocol")),
        };
        let mut port_name = None;
        let port = match value.get("port") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => {
                let port = number.as_u64().and_then(|port| u16::try_from(port).ok());
                if protocol != Protocol::Other && port.is_none_or(|port| port == 0) {
                    return Err(format!("`{number}` is no port"));
                }
                port
            }
            Some(Value::String(name)) => match name.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ if name.chars().any(|c| c.is_ascii_lowercase()) => {
                    port_name = Some(name.clone());
                    None
                }
                _ => return Err(format!("`{name}` is no port")),
            },
            Some(other) => return Err(format!("`{other}` is no port")),
        };
        let family = match value.get("family") {
            None | Some(Value::Null) => None,
            Some(family) if *family == 4 || *family == "4" || *family == "IPv4" => Some(Family::V4),
            Some(family) if *family == 6 || *family == "6" || *family == "IPv6" => Some(Family::V6),
            Some(other) => return Err(format!("`{other}` is no address family: 4 or 6")),
        };
        let via_service = match value.get("viaService") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(via)) => *via,
            Some(other) => return Err(format!("`viaService` is `{other}`, not true or false")),
        };
        Ok(Self {
            id: None,
            src: end(["src", "source"])?,
            dst: end(["dst", "destination"])?,
            protocol,
            protocol_name,
            port,
            port_name,
            family,
            via_service,
            observed: value
                .get("verdict")
                .and_then(Value::as_str)
                .and_then(observed),
        })
    }

    /// A flow of Hubble (`hubble observe -o json`).
    fn hubble(flow: &Value) -> Result<Self, String> {
        let text = |pointer: &str| flow.pointer(pointer).and_then(Value::as_str);
        let end = |side: &str, address: &str| {
            let namespace = text(&format!("/{side}/namespace")).filter(|text| !text.is_empty());
            let pod = text(&format!("/{side}/pod_name")).filter(|text| !text.is_empty());
            match (namespace, pod, text(&format!("/IP/{address}"))) {
                (Some(namespace), Some(pod), _) => Ok(format!("{namespace}/{pod}")),
                (_, _, Some(address)) => Ok(address.to_owned()),
                _ => Err(format!("the flow names no {side}")),
            }
        };
        let l4 = flow.get("l4").and_then(Value::as_object);
        let (name, ports) = l4
            .and_then(|l4| l4.iter().next())
            .ok_or("the flow has no layer 4 protocol")?;
        let protocol = protocol_of(name).unwrap_or(Protocol::Other);
        let number = |name: &str| {
            let number = ports.get(name).and_then(Value::as_u64);
            number
                .and_then(|number| u16::try_from(number).ok())
                .filter(|number| *number > 0)
        };
        let (mut src, mut dst) = (end("source", "source")?, end("destination", "destination")?);
        let mut port = number("destination_port");
        // Replies belong to the connection in the other direction.
        let is_reply = flow
            .get("is_reply")
            .and_then(Value::as_bool)
            .or_else(|| flow.get("reply").and_then(Value::as_bool));
        if is_reply == Some(true) {
            std::mem::swap(&mut src, &mut dst);
            port = number("source_port");
        }
        if protocol != Protocol::Other && port.is_none() {
            return Err("the flow has no destination port".to_owned());
        }
        let family = match text("/IP/ipVersion") {
            Some("IPv4") => Some(Family::V4),
            Some("IPv6") => Some(Family::V6),
            _ => None,
        };
        Ok(Self {
            id: flow
                .get("uuid")
                .filter(|uuid| uuid.as_str() != Some(""))
                .cloned(),
            src,
            dst,
            protocol,
            protocol_name: name.clone(),
            port,
            port_name: None,
            family,
            via_service: false,
            observed: text("/verdict").and_then(observed),
        })
    }
}

fn observed(verdict: &str) -> Option<&'static str> {
    match verdict.to_ascii_lowercase().as_str() {
        "forwarded" | "redirected" | "allow" | "allowed" => Some("allowed"),
        "dropped" | "deny" | "denied" => Some("denied"),
        _ => None,
    }
}

fn is_internet_protocol(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "igmp",
        "gre",
        "esp",
        "ah",
        "ipip",
        "ospf",
        "vrrp",
        "icmpv4",
        "icmp6",
        "ipv6-icmp",
        "dccp",
        "udplite",
    ]
    .contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let value = serde_json::from_str(line).unwrap();
        let shown = match Record::read(&value) {
            Ok(record) => format!(
                "{} -> {} {:?} {} {:?}",
                record.src,
                record.dst,
                record.protocol,
                record.port_value(),
                record.observed
            ),
            Err(error) => error,
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn lines_of_every_kind_are_read() {
        check(
            r#"{"src":"x/a","dst":"y/b","protocol":"TCP","port":80}"#,
            "x/a -> y/b Tcp 80 None",
        );
        check(
            r#"{"src":"x/a","dst":"y/b","protocol":"ICMP"}"#,
            "x/a -> y/b Other null None",
        );
        check(
            r#"{"src":"x/a","dst":"y/b","protocol":"UDP","port":"dns"}"#,
            "x/a -> y/b Udp \"dns\" None",
        );
        check(
            r#"{"flow":{"verdict":"DROPPED","IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":4000,"destination_port":80}},"source":{"namespace":"x","pod_name":"a"},"destination":{}}}"#,
            "x/a -> 10.0.0.2 Tcp 80 Some(\"denied\")",
        );
        check(
            r#"{"flow":{"verdict":"FORWARDED","is_reply":true,"IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"UDP":{"source_port":53,"destination_port":4000}}}}"#,
            "10.0.0.2 -> 10.0.0.1 Udp 53 Some(\"allowed\")",
        );
    }

    #[test]
    fn what_is_no_flow_says_why() {
        check("[]", "expected an object");
        check(r#"{"dst":"y/b","port":80}"#, "`src` is missing");
        check(r#"{"src":1,"dst":"y/b","port":80}"#, "`src` is no string");
        check(
            r#"{"src":"x/a","dst":"y/b","port":70000}"#,
            "`70000` is no port",
        );
        check(r#"{"src":"x/a","dst":"y/b","port":0}"#, "`0` is no port");
        check(
            r#"{"src":"x/a","dst":"y/b","protocol":"QUIC","port":1}"#,
            "`QUIC` is no protocol",
        );
        check(
            r#"{"src":"x/a","dst":"y/b","port":80,"family":5}"#,
            "`5` is no address family: 4 or 6",
        );
    }
}
