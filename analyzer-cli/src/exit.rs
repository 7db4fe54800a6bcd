// SPDX-License-Identifier: Apache-2.0
//! How did it end? The exit codes that scripts rely on.

use std::process::ExitCode;

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitStatus {
    /// The answer was given, and what was asked for holds.
    Success,
    /// The answer was given, and what was asked for does not hold.
    Failure,
    /// The command line or the input cannot be used.
    Usage,
    /// The answer is incomplete or unknown.
    Incomplete,
    /// The program is at fault.
    Internal,
}

impl ExitStatus {
    /// Success if `holds`.
    pub fn of(holds: bool) -> Self {
        if holds { Self::Success } else { Self::Failure }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Success => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Incomplete => 3,
            ExitStatus::Internal => 4,
        })
    }
}

/// Nothing can be answered, because what decides is not known; why is said before.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnknownError(pub &'static str);

/// Something the user has to put right.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
    help: Option<String>,
}

impl UsageError {
    /// One sentence, lower case, no final period.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.help.as_deref()
    }
}
