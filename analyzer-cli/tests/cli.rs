// SPDX-License-Identifier: Apache-2.0
//! The transcripts in `tests/cmd` are what the program prints; they double as its documentation.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .default_bin_name("netpol-analyze")
        .case("tests/cmd/*.trycmd");
}
