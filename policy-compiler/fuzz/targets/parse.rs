// SPDX-License-Identifier: Apache-2.0
//! Does reading end well, whatever the text?
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| policy_compiler_fuzz::parse(text));
