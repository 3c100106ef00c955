//! The one place where errors become text and exit codes.

use std::{error::Error as StdError, fmt, io::ErrorKind, path::PathBuf};

use crate::hints::of_io;

/// Exit codes, documented in `llavar --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// The reader of our output has gone, having seen what it wanted; nothing is printed.
    ReaderGone = 0,
    /// Something failed.
    Failure = 1,
    /// The command line or a recipe is wrong.
    Usage = 2,
    /// A data set, picture or model file is wrong.
    Data = 3,
    /// Disk or memory ran out, or a file cannot be written.
    Resource = 4,
    /// Stopped by Ctrl-C or SIGTERM after saving.
    Interrupted = 130,
}

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    source: Box<dyn StdError + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// Wraps `source` in a class.
    pub(crate) fn new(class: Class, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            class,
            source: source.into(),
            hint: None,
        }
    }

    /// Adds what the user can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As [`Failure::hint`], where there is one.
    pub(crate) fn maybe_hint(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(str::to_owned).or(self.hint);
        self
    }

    /// Our output ended in a closed pipe, as with `| head`.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Class::ReaderGone, "the reader of the output has gone")
    }

    /// Whether the user need not hear of it.
    pub(crate) fn is_silent(&self) -> bool {
        self.class == Class::ReaderGone
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message.into())
    }

    /// A file that could not be written or made.
    pub(crate) fn write(path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        let message = format!("cannot write {}: {error}", path.into().display());
        match error.kind() {
            ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                Self::new(Class::Usage, message).maybe_hint(of_io(error))
            }
            _ => Self::new(Class::Resource, message)
                .hint("check free space and permissions; what was finished before is kept"),
        }
    }

    /// Work that was stopped by the user.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Class::Interrupted, message.into())
    }

    /// The process exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.class as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = if self.class == Class::Interrupted {
            "interrupted"
        } else {
            "error"
        };
        // Some libraries end their messages with a line break.
        let mut shown = self.source.to_string().trim_end().to_owned();
        write!(f, "{head}: {shown}")?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            let text = error.to_string().trim_end().to_owned();
            // Messages often quote their cause already.
            if !shown.contains(&text) {
                write!(f, "\n  caused by: {text}")?;
                shown = text;
            }
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Implements `From` for library errors, each in its class; those that deserve a hint: [`crate::hints`].
macro_rules! classes {
    ($($error:ty => $class:ident),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(Class::$class, error)
            }
        })*
    };
}
classes! {
    llavar_model::config::ConfigError => Data,
    llavar_tensor::Error => Failure,
}

/// Result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer thing")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_and_hints_are_printed_once() {
        let io = std::io::Error::other("disk on fire");
        let failure = Failure::new(Class::Data, Outer(io)).hint("buy a disk");
        assert_eq!(
            failure.to_string(),
            "error: outer thing\n  caused by: disk on fire\n  hint: buy a disk"
        );
        assert_eq!(failure.exit_code(), 3);
        assert!(
            Failure::interrupted("saved")
                .to_string()
                .starts_with("interrupted: saved")
        );
    }
}
