// SPDX-License-Identifier: Apache-2.0
//! Prints the CustomResourceDefinition that the manifests carry.

#![expect(clippy::print_stdout, reason = "the definition is the answer")]

fn main() -> anyhow::Result<()> {
    print!("{}", agent::status::report::definition()?);
    Ok(())
}
