// SPDX-License-Identifier: Apache-2.0
//! What does the network plugin do for each command of a runtime?
//!
//! | Command | |
//! |---|---|
//! | ADD | waits for the agent, then hands on what the plugins before it have made |
//! | CHECK | as ADD, and hands nothing on |
//! | DEL, GC | nothing: the agent hears from the kernel that an interface is gone |
//! | STATUS | asks whether the agent is there |
//! | VERSION | says which versions of the interface it speaks |

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    PLUGIN,
    spec::{Attachment, Code, Configuration, Failure, NEWEST, OnFailure, VERSIONS, Wait, known},
    wire::{self, Answer, Question},
};

/// How long an agent that is away is left alone between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How much longer than asked the agent may take to answer.
const GRACE: Duration = Duration::from_secs(5);

/// Whether a program that was started with this command line is the plugin: runtimes call it by the name
/// of its file and say nothing more.
pub fn is_meant(line: &[OsString]) -> bool {
    match line {
        [name] => Path::new(name).file_name() == Some(OsStr::new(PLUGIN)),
        _ => false,
    }
}

/// Does what the runtime asks for in the environment and on standard input; says on standard output how it
/// went.
pub fn run() -> ExitCode {
    let mut input = Vec::new();
    // What cannot be read is no configuration, which is said where one is needed.
    let _ = io::stdin().lock().read_to_end(&mut input);
    let (document, code) = match obey(|name| env::var_os(name), &input) {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(failure) => {
            let spoken = serde_json::from_slice::<Value>(&input).unwrap_or_default();
            let version = spoken["cniVersion"].as_str().unwrap_or_default();
            (Some(failure.document(version)), ExitCode::FAILURE)
        }
    };
    let text = document.map_or_else(String::new, |document| format!("{document}\n"));
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What is to be written for a command.
fn obey(
    variable: impl Fn(&str) -> Option<OsString>,
    input: &[u8],
) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    match command.to_str() {
        Some("ADD") => {
            let (configuration, result) = chained(input)?;
            hold(variable, &configuration)?;
            Ok(Some(result))
        }
        Some("CHECK") => {
            let (configuration, _) = chained(input)?;
            hold(variable, &configuration)?;
            Ok(None)
        }
        Some("DEL" | "GC") => Ok(None),
        Some("STATUS") => {
            let configuration = spoken(input)?;
            match ask(&configuration.socket, &Question::Ready, None, PAUSE) {
                Err(error) if configuration.on_failure == OnFailure::Deny => {
                    let message = format!("the agent does not answer: {error}");
                    Err(Failure::new(Code::Unavailable, message))
                }
                _ => Ok(None),
            }
        }
        Some("VERSION") => {
            let asked = serde_json::from_slice::<Value>(input).unwrap_or_default();
            let version = asked["cniVersion"].as_str().and_then(known);
            Ok(Some(json!({
                "cniVersion": version.unwrap_or(NEWEST),
                "supportedVersions": VERSIONS,
            })))
        }
        _ => {
            let command = command.display();
            let message = format!("CNI_COMMAND is `{command}`, which is no command of CNI");
            Err(Failure::new(Code::InvalidEnvironment, message))
        }
    }
}

/// The configuration, in a version that the plugin speaks.
fn spoken(input: &[u8]) -> Result<Configuration, Failure> {
    let configuration = Configuration::read(input)?;
    let version = &configuration.cni_version;
    if known(version).is_none() {
        let message = format!("version `{version}` of CNI has no chains that this plugin knows");
        return Err(Failure::new(Code::IncompatibleVersion, message));
    }
    Ok(configuration)
}

/// The configuration, and what the plugins before this one have made.
fn chained(input: &[u8]) -> Result<(Configuration, Value), Failure> {
    let mut configuration = spoken(input)?;
    let Some(result) = configuration.prev_result.take() else {
        let message =
            "there is no prevResult: the plugin has to come after one that makes interfaces";
        return Err(Failure::new(Code::InvalidConfiguration, message));
    };
    Ok((configuration, result))
}

/// Returns when the pod may begin.
fn hold(
    variable: impl Fn(&str) -> Option<OsString>,
    configuration: &Configuration,
) -> Result<(), Failure> {
    let result = Attachment::read(variable)
        .and_then(|attachment| wait_for_agent(&attachment, configuration));
    match result {
        Err(failure) if configuration.on_failure == OnFailure::Allow => {
            // Runtimes log what plugins write here.
            anstream::eprintln!("{PLUGIN}: not waited for: {failure}");
            Ok(())
        }
        result => result,
    }
}

fn wait_for_agent(attachment: &Attachment, configuration: &Configuration) -> Result<(), Failure> {
    let path = attachment.netns.display();
    let netns = File::open(&attachment.netns).map_err(|error| {
        Failure::new(Code::Io, format!("cannot open the pod's `{path}`: {error}"))
    })?;
    let deadline = Instant::now() + configuration.timeout();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let question = Question::Hold {
            interface: attachment.interface.clone(),
            namespace: attachment.namespace.clone(),
            pod: attachment.pod.clone(),
            uid: attachment.uid.clone(),
            wait: configuration.wait,
            patience: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        let why = match ask(&configuration.socket, &question, Some(&netns), left) {
            // The agent says "closed" only where that is enough.
            Ok(Answer::Programmed | Answer::Closed) => return Ok(()),
            Ok(Answer::Never(why)) => return Err(Failure::new(Code::NoHostInterface, why)),
            Ok(Answer::NotYet(why)) => why,
            Ok(Answer::Ready) => "the agent is of another version".to_owned(),
            Err(error) => {
                let socket = configuration.socket.display();
                format!("the agent does not answer at `{socket}`: {error}")
            }
        };
        if Instant::now() + PAUSE >= deadline {
            let wanted = match configuration.wait {
                Wait::Closed => "closed",
                Wait::Programmed => "programmed",
            };
            let interface = &attachment.interface;
            let message = format!("interface `{interface}` is not known to be {wanted}: {why}");
            return Err(Failure::new(Code::TryAgain, message));
        }
        thread::sleep(PAUSE);
    }
}

/// Asks the agent, which may take `patience` to answer.
fn ask(
    socket: &Path,
    question: &Question,
    netns: Option<&File>,
    patience: Duration,
) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience + GRACE))?;
    stream.set_write_timeout(Some(GRACE))?;
    wire::send(&stream, question, netns.map(|file| file.as_fd()))?;
    let (answer, _) = wire::receive(&stream)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod that is about to begin on a machine without an agent.
    fn variable(command: &'static str) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/proc/self/ns/net",
                "CNI_IFNAME" => "eth0",
                "CNI_ARGS" => "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
                _ => return None,
            };
            Some(value.into())
        }
    }

    fn configuration(change: impl Fn(&mut Value)) -> Vec<u8> {
        let mut configuration = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": PLUGIN,
            "socket": "/nonexistent/cni.sock", "timeoutSeconds": 0,
            "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}},
        });
        change(&mut configuration);
        configuration.to_string().into_bytes()
    }

    #[track_caller]
    fn refused(command: &'static str, change: impl Fn(&mut Value)) -> Failure {
        obey(variable(command), &configuration(change)).unwrap_err()
    }

    #[test]
    fn the_file_name_makes_the_plugin() {
        for (name, meant) in [
            ("/opt/cni/bin/netpol-cni", true),
            ("netpol-cni", true),
            ("/netpol-agent", false),
            ("/netpol-cni/netpol-agent", false),
        ] {
            assert_eq!(is_meant(&[name.into()]), meant, "{name}");
            // It remains the agent, for who has to clean up without another.
            assert!(!is_meant(&[name.into(), "cleanup".into()]));
        }
        assert!(!is_meant(&[]));
    }

    #[test]
    fn without_an_agent_a_pod_does_not_begin() {
        for command in ["ADD", "CHECK"] {
            let failure = refused(command, |_| ());
            assert_eq!(failure.code, Code::TryAgain, "{failure}");
            assert!(
                failure.message.contains("/nonexistent/cni.sock"),
                "{failure}"
            );
        }
        assert_eq!(refused("STATUS", |_| ()).code, Code::Unavailable);
    }

    #[test]
    fn without_an_agent_a_pod_begins_where_that_is_wanted() {
        let lenient = |configuration: &mut Value| configuration["onFailure"] = json!("allow");
        let input = configuration(lenient);
        let result = obey(variable("ADD"), &input).unwrap();
        let before: Value = serde_json::from_slice(&input).unwrap();
        assert_eq!(result.as_ref(), Some(&before["prevResult"]));
        for command in ["CHECK", "STATUS"] {
            assert_eq!(obey(variable(command), &input).unwrap(), None);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_number() {
        let alone = |configuration: &mut Value| configuration["prevResult"] = Value::Null;
        assert_eq!(refused("ADD", alone).code, Code::InvalidConfiguration);
        assert_eq!(refused("CHECK", alone).code, Code::InvalidConfiguration);
        for version in ["0.2.0", "2.0.0", ""] {
            let failure = refused("ADD", |configuration| {
                configuration["cniVersion"] = json!(version);
            });
            assert_eq!(failure.code, Code::IncompatibleVersion, "{version}");
        }
        for command in ["", "EAT"] {
            assert_eq!(refused(command, |_| ()).code, Code::InvalidEnvironment);
        }
        let nowhere = |name: &str| match name {
            "CNI_NETNS" => Some("/nonexistent/netns".into()),
            name => variable("ADD")(name),
        };
        let failure = obey(nowhere, &configuration(|_| ())).unwrap_err();
        assert_eq!(failure.code, Code::Io, "{failure}");
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_the_interface() {
        let failure = refused("STATUS", |_| ());
        let told = failure.document("0.4.0");
        assert_eq!(told["cniVersion"], "0.4.0");
        assert_eq!(told["code"], 50);
        assert_eq!(told["msg"], failure.message);
        assert_eq!(failure.document("0.2.0")["cniVersion"], NEWEST);
    }

    #[test]
    fn taking_away_always_succeeds() {
        for command in ["DEL", "GC"] {
            for input in ["", "{}", "no JSON"] {
                assert_eq!(obey(variable(command), input.as_bytes()), Ok(None));
            }
        }
    }

    #[test]
    fn it_says_which_versions_it_speaks() {
        let told = obey(variable("VERSION"), br#"{"cniVersion": "0.4.0"}"#).unwrap();
        let told = told.unwrap();
        assert_eq!(told["cniVersion"], "0.4.0");
        assert_eq!(told["supportedVersions"], json!(VERSIONS));
        let told = obey(variable("VERSION"), b"").unwrap().unwrap();
        assert_eq!(told["cniVersion"], "1.1.0");
    }
}
