// SPDX-License-Identifier: Apache-2.0
//! What do a runtime and a network plugin say to each other? (CNI, versions 0.3.0 to 1.1.0)

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SOCKET;

/// The versions of the interface in which plugins can be chained.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version in which something is said to a runtime that asked in none of [`VERSIONS`].
pub const NEWEST: &str = "1.1.0";

/// What can have gone wrong, as the interface numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The configuration is written for a version that the plugin does not speak.
    IncompatibleVersion = 1,
    /// A variable of the environment is missing or makes no sense.
    InvalidEnvironment = 4,
    /// A file could not be read.
    Io = 5,
    /// What came on standard input is no configuration.
    Undecodable = 6,
    /// The configuration asks for what there is not.
    InvalidConfiguration = 7,
    /// Nothing is wrong for good: the runtime should try once more.
    TryAgain = 11,
    /// The plugin cannot serve ADD at the moment (STATUS).
    Unavailable = 50,
    /// The interface has no end on the node that could be closed; numbers from 100 are a plugin's own.
    NoHostInterface = 100,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// What happened, in one line.
    pub message: String,
}

impl Failure {
    /// A failure that is explained by `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As it is told to the runtime, which spoke `version`.
    pub fn document(&self, version: &str) -> Value {
        let version = known(version).unwrap_or(NEWEST);
        json!({"cniVersion": version, "code": self.code as u32, "msg": self.message})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `version`, if the plugin speaks it.
pub fn known(version: &str) -> Option<&'static str> {
    VERSIONS.into_iter().find(|known| *known == version)
}

/// What is waited for before a pod may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Nothing passes the interface but what finds neighbours.
    Closed,
    /// The interface's packets are judged by the pod's policies.
    #[default]
    Programmed,
}

/// What becomes of a pod whose interface nobody vouches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It begins nevertheless.
    Allow,
    /// It does not begin; the runtime tries again.
    #[default]
    Deny,
}

/// The plugin's part of a network configuration. What else is in it is other plugins' and the runtime's.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// The version of the interface in which the runtime speaks.
    #[serde(default)]
    pub cni_version: String,
    /// What the plugins before this one have made.
    pub prev_result: Option<Value>,
    /// Where the agent listens.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// What to wait for.
    #[serde(default)]
    pub wait: Wait,
    /// Seconds to wait at the most.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u16,
    /// What to do when the time is over.
    #[serde(default)]
    pub on_failure: OnFailure,
}

fn default_socket() -> PathBuf {
    SOCKET.into()
}

const fn default_timeout() -> u16 {
    10
}

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// The text is no JSON object, or an option of the plugin has no value that it could have.
    pub fn read(text: &[u8]) -> Result<Self, Failure> {
        let undecodable = |error: &dyn fmt::Display| {
            let message = format!("the network configuration cannot be read: {error}");
            Failure::new(Code::Undecodable, message)
        };
        let value: Value = serde_json::from_slice(text).map_err(|error| undecodable(&error))?;
        if !value.is_object() {
            return Err(undecodable(&"it is no object"));
        }
        serde_json::from_value(value).map_err(|error| {
            let message = format!("the network configuration is invalid: {error}");
            Failure::new(Code::InvalidConfiguration, message)
        })
    }

    /// How long to wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// What the runtime says in variables of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The file of the pod's network namespace.
    pub netns: PathBuf,
    /// The interface, as the pod sees it.
    pub interface: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID; empty if the runtime does not tell.
    pub uid: String,
}

impl Attachment {
    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// One that is needed is missing or empty, or the runtime names no pod.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let needed = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value
                .ok_or_else(|| Failure::new(Code::InvalidEnvironment, format!("{name} is not set")))
        };
        needed("CNI_CONTAINERID")?;
        let arguments = variable("CNI_ARGS").unwrap_or_default();
        let arguments = arguments.to_string_lossy();
        // `KEY=value` pairs with semicolons between them.
        let arguments: BTreeMap<&str, &str> = arguments
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let named = |name: &str| {
            let value = arguments.get(name).filter(|value| !value.is_empty());
            value.map(|value| (*value).to_owned()).ok_or_else(|| {
                let message = format!("CNI_ARGS has no {name}: only pods of Kubernetes are known");
                Failure::new(Code::InvalidEnvironment, message)
            })
        };
        Ok(Self {
            netns: needed("CNI_NETNS")?.into(),
            interface: needed("CNI_IFNAME")?.to_string_lossy().into_owned(),
            namespace: named("K8S_POD_NAMESPACE")?,
            pod: named("K8S_POD_NAME")?,
            uid: named("K8S_POD_UID").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_may_leave_everything_to_its_defaults() {
        let text = br#"{"cniVersion": "1.0.0", "name": "pods", "type": "netpol-cni", "args": {}}"#;
        let read = Configuration::read(text).unwrap();
        assert_eq!(read.socket, PathBuf::from("/run/netpol/cni.sock"));
        assert_eq!(read.timeout(), Duration::from_secs(10));
        assert_eq!(
            (read.wait, read.on_failure),
            (Wait::Programmed, OnFailure::Deny)
        );
        let text =
            br#"{"wait": "closed", "onFailure": "allow", "timeoutSeconds": 3, "socket": "/s"}"#;
        let read = Configuration::read(text).unwrap();
        assert_eq!(read.timeout(), Duration::from_secs(3));
        assert_eq!(
            (read.wait, read.on_failure),
            (Wait::Closed, OnFailure::Allow)
        );
    }

    #[test]
    fn what_is_wrong_with_a_configuration_is_told() {
        for (text, code) in [
            ("", Code::Undecodable),
            ("[]", Code::Undecodable),
            (r#"{"wait": "never"}"#, Code::InvalidConfiguration),
            (r#"{"onFailure": "retry"}"#, Code::InvalidConfiguration),
            (r#"{"timeoutSeconds": -1}"#, Code::InvalidConfiguration),
        ] {
            let failure = Configuration::read(text.as_bytes()).unwrap_err();
            assert_eq!(failure.code, code, "{text}: {failure}");
        }
    }

    #[test]
    fn the_environment_names_the_pod() {
        let full = |name: &str| {
            let value = match name {
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/run/netns/c1",
                "CNI_IFNAME" => "eth0",
                "CNI_ARGS" => {
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;\
                     K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
                }
                _ => return None,
            };
            Some(value.into())
        };
        let read = Attachment::read(full).unwrap();
        let names = [&*read.namespace, &*read.pod, &*read.uid, &*read.interface];
        assert_eq!(names, ["shop", "web", "u1", "eth0"]);
        for missing in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            let lacking = |name: &str| full(name).filter(|_| name != missing);
            let failure = Attachment::read(lacking).unwrap_err();
            assert_eq!(failure.code, Code::InvalidEnvironment, "{missing}");
            assert!(failure.message.contains(missing), "{failure}");
        }
    }
}
