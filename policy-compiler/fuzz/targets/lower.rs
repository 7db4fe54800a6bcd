// SPDX-License-Identifier: Apache-2.0
//! Do oracle, tables and image agree, whatever cluster a text describes and whatever becomes of it?
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| policy_compiler_fuzz::lower(text));
