#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the control plane into the folder $1, with the names setup-envtest gives its binaries.
set -eu
cd "$(dirname "$0")"
version=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' go.mod)
minor=${version#v1.}
package=k8s.io/component-base/version
mkdir -p "$1"
nice -n 10 "${GO:-go}" build -trimpath -o "$1/controlplane" -ldflags "-s -w \
    -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" .
ln -sf controlplane "$1/etcd"
# Last, because its presence means that the build is complete.
ln -sf controlplane "$1/kube-apiserver"
