# SPDX-License-Identifier: Apache-2.0
# Where the tools are. Sourced by the scripts beside it and by the Makefile; finds, never installs.

# The oldest compiler the workspace builds with (rust-version in Cargo.toml), and the linker for BPF.
RUST_MINIMUM=1.95
BPF_LINKER_VERSION=0.13.0

export CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}"
# Distributions put ip, iptables and nft where only root looks.
PATH="$CARGO_HOME/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"

NETPOL_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/netpol"

# at_least VERSION MINIMUM
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# version_of COMMAND...: the first thing that looks like a version in what `COMMAND... --version` says.
version_of() {
    "$@" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1
}

# The compiler of the host's programs: what is on PATH if it is new enough, else Debian's own.
host_version=$(version_of cargo)
if ! at_least "${host_version:-0}" "$RUST_MINIMUM"; then
    debian_version=$(version_of /usr/bin/cargo)
    if at_least "${debian_version:-0}" "$RUST_MINIMUM"; then
        PATH="/usr/bin:$PATH"
        export CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc
    fi
fi
export PATH
export CARGO="${CARGO:-cargo}"

# kube-apiserver and etcd for the tests, laid out as setup-envtest does.
if [ -z "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$NETPOL_CACHE/controlplane/kube-apiserver" ]; then
    export KUBEBUILDER_ASSETS="$NETPOL_CACHE/controlplane"
fi

# Whether rustup's nightly can build the core library for BPF.
nightly_has_source() {
    command -v rustup >/dev/null &&
        [ -d "$(rustup run nightly rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]
}

# Whether Debian's compiler can: rustc-web, and the matching rust-web-src.
debian_has_source() {
    [ -x /usr/bin/rustc ] && at_least "$(version_of /usr/bin/rustc)" "$RUST_MINIMUM" &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]
}

# The Go that builds Kubernetes: what is on PATH if it is new enough, else what `.ci/setup` installed.
go_program() {
    if at_least "$(go version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1)" 1.26; then
        echo go
    else
        echo "$NETPOL_CACHE/go/bin/go"
    fi
}
