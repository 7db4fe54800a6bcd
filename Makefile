# SPDX-License-Identifier: Apache-2.0
# The entry points. Everything is also reachable by cargo alone, once `make setup` has run.

SHELL := /bin/bash
# Every recipe finds its tools the same way.
ENV := . .ci/env.sh
CRATES := --workspace --exclude policy-ebpf

.PHONY: help setup check test demo nodes bench browser clean

help: ## What there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: ## Install what is missing: compiler and linker for BPF, network tools, shells
	@.ci/setup bpf network shells

check: ## The fast loop: format, lints, unit tests, a small property run; no root
	@.ci/setup bpf
	@$(ENV); $$CARGO fmt --all --check
	@$(ENV); $$CARGO clippy --quiet $(CRATES) --all-targets -- -D warnings
	@$(ENV); NETPOL_PROPTEST_CASES=64 PROPTEST_CASES=64 $$CARGO test --quiet $(CRATES) --lib --bins
	@$(ENV); NETPOL_PROPTEST_CASES=64 PROPTEST_CASES=64 $$CARGO test --quiet -p policy-compiler -p policy-ebpf-common

test: ## Everything that exists, for real: run as root
	@.ci/setup bpf network shells
	@.ci/test

demo: ## The shop on network namespaces: predicted beside measured
	@.ci/setup
	@$(ENV); $$CARGO build --quiet -p agent --bin netpol-agent && if [ $$(id -u) = 0 ]; then target/debug/netpol-agent demo; else sudo target/debug/netpol-agent demo; fi

nodes: ## Two real nodes on this machine and the suites that upstream keeps: an hour, run as root
	@.ci/setup bpf network controlplane nodes
	@$(ENV); $$CARGO build --quiet -p agent --bin netpol-agent && testdata/nodes/nodes suites

bench: ## What compilation, verdicts and packets cost, beside others: run as root
	@.ci/setup
	@.ci/bench

browser: ## The analyzer as one page without a server: target/browser/index.html
	@.ci/browser

clean: ## Remove what was built
	@$(ENV); $$CARGO clean
