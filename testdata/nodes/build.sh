#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds what two nodes are made of into the folder $1: programs, one image, and upstream's suites.
# Running it again builds what is missing.
set -euo pipefail
cd "$(dirname "$0")"
go=${GO:-go} to=$1
# The policies' suites: the last release with AdminNetworkPolicy, and the first with ClusterNetworkPolicy.
suites=(v0.1.7 v0.2.0)
version=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' go.mod)
minor=${version#v1.}
package=k8s.io/component-base/version

# build NAME PACKAGE COMMAND...: unless it is there.
build() {
    local name=$1 from=$2
    shift 2
    [ ! -x "$to/$name" ] || return 0
    echo "nodes: building $name" >&2
    nice -n 10 "$@" -trimpath -o "$to/$name.part" -ldflags "-s -w \
        -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" "$from"
    mv "$to/$name.part" "$to/$name"
}

mkdir -p "$to"
build node ./node "$go" build
for name in kubelet kube-proxy kube-controller-manager kube-scheduler kubectl; do ln -sf node "$to/$name"; done

work=off
if ! python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)' 2>/dev/null; then
    echo "nodes: this kernel has no SCTP: agnhost speaks it over raw sockets" >&2
    work=$PWD/without-sctp.work
fi
build agnhost ./agnhost env GOWORK="$work" CGO_ENABLED=0 "$go" build
# Some pods of the suites start it from bash.
image=$(mktemp -d)
trap 'rm -rf "$image"' EXIT
chmod 755 "$image"
mkdir "$image/bin"
cp "$to/agnhost" "$image/"
cp /bin/bash-static "$image/bin/bash"
registry=registry.k8s.io
./image.py "$to/agnhost.tar" "$image" '["/agnhost"]' '["pause"]' \
    $registry/pause:3.10 $registry/e2e-test-images/agnhost:2.63.0 $registry/e2e-test-images/agnhost:2.45

build e2e ./e2e "$go" test -c
for name in "${suites[@]}"; do
    # The suite reads its manifests, and the cluster the CRDs, from the module's folder.
    folder=$("$go" mod download -json "sigs.k8s.io/network-policy-api@$name" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    ln -sfn "$folder" "$to/network-policy-api-$name"
    (cd "$folder" && build "conformance-$name" ./conformance "$go" test -c)
done
