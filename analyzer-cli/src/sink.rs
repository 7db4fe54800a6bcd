// SPDX-License-Identifier: Apache-2.0
//! Where does the answer go? To a file or standard output, whose reader may have enough of it before the
//! end.

use std::{
    fs::File,
    io::{self, BufWriter, ErrorKind, Write},
    path::Path,
};

use anyhow::Context;

/// The file, or standard output.
pub fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn Write>> {
    Ok(match file {
        Some(path) => {
            let opened = File::create(path);
            let opened = opened.with_context(|| format!("cannot write `{}`", path.display()))?;
            Box::new(BufWriter::new(UntilClosed(opened)))
        }
        None => Box::new(BufWriter::new(UntilClosed(io::stdout().lock()))),
    })
}

/// Whether the reader of a stream went away, which is no failure: how a run ends is decided by the
/// answer, not by how much of it somebody read.
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Drops what is written once the reader has gone.
struct UntilClosed<W>(W);

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if is_closed(&error) => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if is_closed(&error) => Ok(()),
            flushed => flushed,
        }
    }
}
