// SPDX-License-Identifier: Apache-2.0
//! How do the plugin and the agent talk over their socket?
//!
//! One question and one answer for each connection, a line of JSON each. A network namespace travels as an
//! open file, so that it does not matter what the two sides' mount namespaces call it.

use std::{
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::spec::Wait;

/// More than this is no question and no answer. Names are bounded far below it.
const LONGEST: usize = 8 << 10;

/// What a plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Question {
    /// Is somebody there?
    Ready,
    /// Does an interface of the namespace that comes with the question fare as it is waited for?
    Hold {
        /// The interface, as the pod sees it.
        interface: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The pod's UID, or nothing.
        uid: String,
        /// What is waited for.
        wait: Wait,
        /// Milliseconds after which nobody waits any more.
        patience: u64,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// Somebody is there.
    Ready,
    /// Nothing passes, but for what finds neighbours.
    Closed,
    /// The pod's policies decide what passes.
    Programmed,
    /// It is not as it should be yet, and why.
    NotYet(String),
    /// It will never be, and why.
    Never(String),
}

/// Sends a line, and a file with it.
pub(super) fn send(
    stream: &UnixStream,
    line: &impl Serialize,
    file: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        along.push(SendAncillaryMessage::ScmRights(&files));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&text)],
        &mut along,
        SendFlags::NOSIGNAL,
    )?;
    let mut stream = stream;
    stream.write_all(text.get(sent..).unwrap_or_default())
}

/// Takes a line, and the file that came with its first byte.
pub(super) fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
) -> io::Result<(T, Option<OwnedFd>)> {
    let mut first = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let taken = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut first)],
        &mut along,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let files = along.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.flatten().next();
    let mut line = first.get(..taken.bytes).unwrap_or_default().to_vec();
    if !line.is_empty() && !line.ends_with(b"\n") {
        let room = (LONGEST - line.len()) as u64;
        BufReader::new(stream.as_fd().try_clone_to_owned().map(UnixStream::from)?)
            .take(room)
            .read_until(b'\n', &mut line)?;
    }
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&line)?, file))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::MetadataExt as _};

    use super::*;

    fn hold(pod: &str) -> Question {
        Question::Hold {
            interface: "eth0".to_owned(),
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            uid: String::new(),
            wait: Wait::Closed,
            patience: 10,
        }
    }

    #[test]
    fn a_file_travels_with_its_question() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&here, &hold("web"), Some(file.as_fd())).unwrap();
        let (question, came) = receive::<Question>(&there).unwrap();
        assert_eq!(question, hold("web"));
        let came = File::from(came.unwrap()).metadata().unwrap();
        assert_eq!(came.ino(), file.metadata().unwrap().ino());
        send(&there, &Answer::Never("no".to_owned()), None).unwrap();
        let (answer, nothing) = receive::<Answer>(&here).unwrap();
        assert_eq!(answer, Answer::Never("no".to_owned()));
        assert!(nothing.is_none());
    }

    #[test]
    fn a_question_may_come_in_pieces_but_not_without_end() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let text = serde_json::to_string(&hold("web")).unwrap() + "\n";
        let (head, tail) = text.split_at(20);
        here.write_all(head.as_bytes()).unwrap();
        let tail = tail.to_owned();
        let writer = std::thread::spawn(move || here.write_all(tail.as_bytes()).map(|()| here));
        assert_eq!(receive::<Question>(&there).unwrap().0, hold("web"));

        let mut here = writer.join().unwrap().unwrap();
        let long = "x".repeat(LONGEST * 2);
        let writer = std::thread::spawn(move || here.write_all(long.as_bytes()));
        assert!(receive::<Question>(&there).is_err());
        drop(there);
        let _ = writer.join().unwrap();
    }

    #[test]
    fn whoever_hangs_up_has_not_answered() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive::<Answer>(&there).is_err());
    }
}
