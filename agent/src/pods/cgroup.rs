// SPDX-License-Identifier: Apache-2.0
//! Which pod does a process belong to?

/// The UID of the pod in the text of `/proc/PID/cgroup`, whichever way the kubelet arranges control
/// groups: `/kubepods/burstable/pod<uid>/<container>` (cgroupfs) or
/// `/kubepods.slice/kubepods-burstable-pod<uid>.slice/...` with `_` for `-` (systemd), possibly below
/// groups of something that holds the whole node.
pub(super) fn pod_uid(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| {
        // hierarchy-ID:controller-list:path
        let path = line.splitn(3, ':').nth(2)?;
        // The innermost group counts: a node may itself run in a pod.
        path.rsplit('/').find_map(component_uid)
    })
}

fn component_uid(component: &str) -> Option<String> {
    let name = component.strip_suffix(".slice").unwrap_or(component);
    let rest = match name.strip_prefix("pod") {
        Some(rest) => rest,
        None => name.split_once("kubepods")?.1.rsplit_once("-pod")?.1,
    };
    let uid = rest.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// A UUID as the API server makes them, or the hash that a kubelet gives a pod from a file.
fn is_uid(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    parts.iter().all(|part| is_hex(part)) && (lengths == [8, 4, 4, 4, 12] || lengths == [32])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0c5c2a1b-7f3e-4d8a-9b6c-1234567890ab";

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(pod_uid(text).as_deref(), expected, "{text}");
    }

    #[test]
    fn cgroupfs_driver() {
        check(
            "12:pids:/user.slice\n\
             3:memory:/kubepods/burstable/pod0c5c2a1b-7f3e-4d8a-9b6c-1234567890ab/0123abcd\n",
            Some(UID),
        );
    }

    #[test]
    fn systemd_driver() {
        check(
            "0::/kubepods.slice/kubepods-besteffort.slice/\
             kubepods-besteffort-pod0c5c2a1b_7f3e_4d8a_9b6c_1234567890ab.slice/cri-containerd-f00.scope\n",
            Some(UID),
        );
        check(
            "0::/kubepods.slice/kubepods-pod0c5c2a1b_7f3e_4d8a_9b6c_1234567890ab.slice/crio-f00.scope",
            Some(UID),
        );
    }

    #[test]
    fn nested_nodes() {
        check(
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod0c5c2a1b_7f3e_4d8a_9b6c_1234567890ab.slice/cri-containerd-1.scope",
            Some(UID),
        );
        check(
            "0::/kubepods/podffffffff-7f3e-4d8a-9b6c-1234567890ab/node/kubepods/\
             pod0c5c2a1b-7f3e-4d8a-9b6c-1234567890ab/c",
            Some(UID),
        );
        check(
            "0::/../../pod0c5c2a1b-7f3e-4d8a-9b6c-1234567890ab/c",
            Some(UID),
        );
    }

    #[test]
    fn pods_from_files_have_a_hash() {
        check(
            "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/c",
            Some("0123456789abcdef0123456789abcdef"),
        );
    }

    #[test]
    fn other_processes_belong_to_no_pod() {
        check("0::/system.slice/sshd.service", None);
        check("0::/machine.slice/libpod-0123.scope", None);
        check("0::/podman/pod1234", None);
        check("0::/", None);
        check("", None);
        check("garbage", None);
    }
}
