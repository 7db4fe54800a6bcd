// SPDX-License-Identifier: Apache-2.0
//! How do programs get onto interfaces, and stay there?
//!
//! With TCX (Linux 6.6) a pinned link holds the program; a successor's program replaces it in the
//! link, so there is no moment without one. Without TCX a filter of the clsact qdisc does, at a
//! priority and handle of our own. Interfaces are those of the calling thread's network namespace.

use std::{
    error::Error,
    fmt, fs, io, mem,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, Link as _, PinnedLink},
        tc::{
            self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle,
        },
    },
};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use super::{
    error::DatapathError,
    gate,
    load::{program, remove},
    maps::Pins,
};
use crate::net::{Filter, Guard, Netlink, Netns};

/// Priority of our clsact filters: ahead of most, behind what reserves the first place.
const PRIORITY: u16 = 2;
/// Handle of our clsact filters ("np").
const HANDLE: TcHandle = TcHandle::new(0, 0x6e70);

/// How long a link may take to leave an interface.
const DETACHING: Duration = Duration::from_secs(2);

/// Where on an interface a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Ingress of a pod's host interface: what the pod sends.
    FromPod,
    /// Egress of a pod's host interface: what the pod receives.
    ToPod,
    /// Egress of a device that leads off the node: an uplink, a tunnel.
    ToAny,
    /// Egress of a bridge that has pods behind it.
    ToBridge,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::ToAny, Self::ToBridge];

    /// Name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::ToAny => "to_any",
            Self::ToBridge => "to_bridge",
        }
    }

    const fn side(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod | Self::ToAny | Self::ToBridge => TcAttachType::Egress,
        }
    }

    /// First to see what the pod sends, last to see what it receives.
    fn order(self) -> LinkOrder {
        match self {
            Self::FromPod => LinkOrder::first(),
            Self::ToPod | Self::ToAny | Self::ToBridge => LinkOrder::last(),
        }
    }
}

/// What holds programs on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// TCX links.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

impl Attachment {
    /// TCX if the kernel has it.
    pub(super) fn best() -> Self {
        // Without TCX the query is an unknown command.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }
}

/// Whether a program of another version of this agent, or of one whose maps are lost, is on the hook.
pub(super) fn has_predecessor(
    pins: &Pins,
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
) -> bool {
    match attachment {
        Attachment::Tcx => predecessor(pins, hook, ifindex).is_some(),
        // What a gate put there judges nothing.
        Attachment::Clsact => {
            !gate::is_marked(pins, ifindex)
                && filters(ifindex).is_ok_and(|filters| {
                    let mut filters = filters.iter();
                    filters
                        .any(|filter| is_ours(filter) && filter.egress == (hook != Hook::FromPod))
                })
        }
    }
}

/// Puts the program on the interface, in the place of a predecessor's if one is there.
pub(super) fn attach(
    pins: &Pins,
    ebpf: &mut Ebpf,
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Attach {
        action: "attach",
        hook: hook.name(),
        ifindex,
        source,
    };
    let program = program(ebpf, hook.name())?;
    match attachment {
        Attachment::Tcx => attach_tcx(pins, program, hook, ifindex).map_err(failed),
        Attachment::Clsact => attach_clsact(pins, program, hook, ifindex).map_err(failed),
    }
}

/// Puts a gate's program on the hook. Unless `again`, a program that is there stays.
pub(super) fn close(
    pins: &Pins,
    program: &mut SchedClassifier,
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
    again: bool,
) -> Result<(), AttachError> {
    if again {
        return match attachment {
            Attachment::Tcx => attach_tcx(pins, program, hook, ifindex),
            Attachment::Clsact => attach_clsact(pins, program, hook, ifindex),
        };
    }
    let first = match attachment {
        Attachment::Tcx if link_path(pins, hook, ifindex).exists() => Ok(()),
        Attachment::Tcx => new_tcx(pins, program, hook, ifindex),
        Attachment::Clsact => new_clsact(pins, program, hook, ifindex),
    };
    match first {
        // The datapath was faster.
        Err(error) if errno(&*error) == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Whether a gate has closed the hook and nothing has been put in its place.
pub(super) fn is_gated(pins: &Pins, attachment: Attachment, hook: Hook, ifindex: u32) -> bool {
    match attachment {
        Attachment::Tcx => name_of(ifindex)
            .ok()
            .and_then(|name| SchedClassifier::query_tcx(&name, hook.side()).ok())
            .is_some_and(|(_, programs)| {
                let names = programs.iter().filter_map(|program| program.name_as_str());
                names.into_iter().any(gate::is_program)
            }),
        // A gate that came too late leaves its mark, too; what is not there it has not closed.
        Attachment::Clsact => {
            gate::is_marked(pins, ifindex) && guard(attachment, hook, ifindex).is_some()
        }
    }
}

/// What is on the hook; `None` if nothing of ours is. Filters do not tell a gate's program from a pod's:
/// they count as a pod's.
pub(super) fn guard(attachment: Attachment, hook: Hook, ifindex: u32) -> Option<Guard> {
    match attachment {
        Attachment::Tcx => {
            let name = name_of(ifindex).ok()?;
            let (_, programs) = SchedClassifier::query_tcx(&name, hook.side()).ok()?;
            let names = || programs.iter().filter_map(|program| program.name_as_str());
            if names().any(|name| name == hook.name()) {
                Some(Guard::Pod)
            } else {
                names().any(gate::is_program).then_some(Guard::Gate)
            }
        }
        Attachment::Clsact => {
            let filters = filters(ifindex).ok()?.into_iter();
            let mut ours = filters
                .filter(|filter| is_ours(filter) && filter.egress == (hook != Hook::FromPod));
            ours.next().map(|_| Guard::Pod)
        }
    }
}

/// Takes the program off the interface; none there, or no such interface, is fine.
pub(super) fn detach(
    pins: &Pins,
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Attach {
        action: "detach",
        hook: hook.name(),
        ifindex,
        source,
    };
    match attachment {
        // The pin is the link's only owner.
        Attachment::Tcx => remove(&link_path(pins, hook, ifindex)),
        Attachment::Clsact => detach_clsact(pins, hook, ifindex).map_err(failed),
    }
}

/// Whether the interface has the program where [`attach`] put it, and it is `program_id`; `None` if
/// only attaching again can make sure.
pub(super) fn is_attached(
    pins: &Pins,
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
    program_id: u32,
) -> Option<bool> {
    match attachment {
        Attachment::Tcx => Some(
            link_path(pins, hook, ifindex).exists()
                && name_of(ifindex)
                    .ok()
                    .and_then(|name| SchedClassifier::query_tcx(&name, hook.side()).ok())
                    .is_some_and(|(_, programs)| {
                        programs.iter().any(|program| program.id() == program_id)
                    }),
        ),
        Attachment::Clsact => None,
    }
}

/// The programs of others that see packets before ours does, first things first; they may send a packet
/// on its way so that ours never sees it. Empty where that cannot be asked.
pub(super) fn ahead(
    attachment: Attachment,
    hook: Hook,
    ifindex: u32,
    program_id: u32,
) -> Vec<String> {
    let programs = name_of(ifindex)
        .ok()
        .and_then(|name| SchedClassifier::query_tcx(&name, hook.side()).ok())
        .map(|(_, programs)| programs)
        .unwrap_or_default();
    let ours = match attachment {
        Attachment::Tcx => programs.iter().position(|other| other.id() == program_id),
        // Filters of clsact run after TCX, in the order of their priorities.
        Attachment::Clsact => Some(programs.len()),
    };
    let others = programs.into_iter().take(ours.unwrap_or_default());
    let mut ahead: Vec<String> = others
        .map(|program| match program.name_as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => format!("#{}", program.id()),
        })
        .collect();
    if attachment == Attachment::Clsact {
        let filters = filters(ifindex).unwrap_or_default().into_iter();
        let filters = filters.filter(|filter| {
            filter.egress == (hook != Hook::FromPod) && filter.priority < PRIORITY
        });
        ahead.extend(filters.map(|filter| {
            let Filter { kind, priority, .. } = filter;
            format!("{kind} filter of priority {priority}")
        }));
    }
    ahead
}

/// The hooks and interfaces that have a pinned link.
pub(super) fn pinned(pins: &Pins) -> io::Result<Vec<(Hook, u32)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(pins.links()) {
        // Somebody removed the pins, and the links with them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some((ifindex, hook)) = name.to_str().and_then(|name| name.split_once('-')) else {
            continue;
        };
        let hook = Hook::ALL.into_iter().find(|known| known.name() == hook);
        if let (Ok(ifindex), Some(hook)) = (ifindex.parse(), hook) {
            found.push((hook, ifindex));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether this network namespace has an interface with this number.
pub(super) fn exists(ifindex: u32) -> bool {
    name_of(ifindex).is_ok()
}

type AttachError = Box<dyn Error + Send + Sync>;

/// Takes our clsact filters off every interface of this network namespace.
pub(super) fn detach_all_clsact(pins: &Pins) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Attach {
        action: "detach",
        hook: "every",
        ifindex: 0,
        source,
    };
    let links = Netns::current()
        .map_err(AttachError::from)
        .and_then(|here| Ok(Netlink::open(&here)?.links()?))
        .map_err(failed)?;
    for link in links {
        // The egress hooks share priority and handle.
        for hook in [Hook::FromPod, Hook::ToPod] {
            detach_clsact(pins, hook, link.index).map_err(failed)?;
        }
    }
    Ok(())
}

/// Puts the program into the pinned link of the hook, which is made if there is none.
///
/// The gate and the datapath may do this at the same time. Who pins second finds the other's link.
fn attach_tcx(
    pins: &Pins,
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
) -> Result<(), AttachError> {
    let start = Instant::now();
    loop {
        match try_attach_tcx(pins, program, hook, ifindex) {
            // The pin; or, on the interface, a link that lost its pin, which the kernel takes off in the
            // background.
            Err(error) if errno(&*error) == Some(libc::EEXIST) && start.elapsed() < DETACHING => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn try_attach_tcx(
    pins: &Pins,
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
) -> Result<(), AttachError> {
    let path = link_path(pins, hook, ifindex);
    let found = Some(path.clone()).filter(|path| path.exists());
    let found = found.or_else(|| predecessor(pins, hook, ifindex));
    let old = found.map(|path| (PinnedLink::from_pin(&path), path));
    match old {
        // Removed since: the interface it was on is gone.
        Some((Err(error), _)) if errno(&error) == Some(libc::ENOENT) => {}
        Some((old, old_path)) => {
            match program.attach_to_link(SchedClassifierLink::try_from(FdLink::from(old?))?) {
                Ok(id) => {
                    // A link has as many owners as pins: there is always one.
                    let link: FdLink = program.take_link(id)?.try_into()?;
                    if old_path != path {
                        link.pin(&path)?;
                        remove(&old_path)?;
                    }
                    return Ok(());
                }
                // The link's interface is gone and its index belongs to another one now.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    remove(&old_path)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        None => {}
    }
    new_tcx(pins, program, hook, ifindex)
}

/// Makes a link and pins it, unless there is one: `EEXIST`.
fn new_tcx(
    pins: &Pins,
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
) -> Result<(), AttachError> {
    let order = TcAttachOptions::TcxOrder(hook.order());
    let id = program.attach_with_options(&name_of(ifindex)?, hook.side(), order)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(link_path(pins, hook, ifindex))?;
    Ok(())
}

fn attach_clsact(
    pins: &Pins,
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
) -> Result<(), AttachError> {
    match new_clsact(pins, program, hook, ifindex) {
        Err(error) if errno(&*error) == Some(libc::EEXIST) => {
            let name = name_of(ifindex)?;
            let filter = SchedClassifierLink::attached(&name, hook.side(), PRIORITY, HANDLE, None)?;
            let id = program.attach_to_link(filter)?;
            keep(program, id)
        }
        result => result,
    }
}

/// Makes a filter, unless there is one: `EEXIST`.
fn new_clsact(
    pins: &Pins,
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
) -> Result<(), AttachError> {
    let name = name_of(ifindex)?;
    match tc::qdisc_add_clsact(&name) {
        Ok(()) => fs::create_dir_all(qdisc_path(pins, ifindex))?,
        // Somebody else's, or ours of before.
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = program.attach_with_options(&name, hook.side(), options)?;
    keep(program, id)
}

/// Dropping the link would remove the filter, which has to outlive this process.
fn keep(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<(), AttachError> {
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Takes our filter off, and the qdisc if we made it and nobody uses it.
fn detach_clsact(pins: &Pins, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
    let made = qdisc_path(pins, ifindex);
    let Ok(name) = name_of(ifindex) else {
        return forget(&made);
    };
    let filter = SchedClassifierLink::attached(&name, hook.side(), PRIORITY, HANDLE, None)?;
    match filter.detach() {
        // Neither filter nor qdisc.
        Err(error)
            if errno(&error).is_some_and(|code| [libc::ENOENT, libc::EINVAL].contains(&code)) => {}
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    if made.exists() && filters(ifindex)?.is_empty() {
        Netlink::open(&Netns::current()?)?.delete_clsact(ifindex)?;
        forget(&made)?;
    }
    Ok(())
}

/// The filters of the interface's clsact qdisc, in both directions.
fn filters(ifindex: u32) -> Result<Vec<Filter>, AttachError> {
    Ok(Netlink::open(&Netns::current()?)?.filters(ifindex)?)
}

fn is_ours(filter: &Filter) -> bool {
    filter.priority == PRIORITY && filter.handle == u32::from(HANDLE)
}

/// The pin of the link by which another layout's program is on the hook.
fn predecessor(pins: &Pins, hook: Hook, ifindex: u32) -> Option<PathBuf> {
    let others = pins.others().ok()?.into_iter();
    let mut links = others.map(|other| link_path(&other, hook, ifindex));
    links.find(|path| path.exists())
}

/// Removes a folder that has nothing in it; none there is fine.
pub(super) fn forget(path: &Path) -> Result<(), AttachError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The operating system's code at the root of an error.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}

fn name_of(ifindex: u32) -> io::Result<String> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(netdevice::index_to_name(any, ifindex)?)
}

pub(super) fn link_path(pins: &Pins, hook: Hook, ifindex: u32) -> PathBuf {
    pins.links().join(format!("{ifindex}-{}", hook.name()))
}

/// A folder that says that the interface's clsact qdisc is ours.
pub(super) fn qdisc_path(pins: &Pins, ifindex: u32) -> PathBuf {
    pins.directory().join("qdiscs").join(ifindex.to_string())
}
