//! Panics: those that a library catches stay silent, any other ends as one clear error.
//!
//! The standard hook prints every panic when it is raised, also those of a picture decoder that are
//! caught and become an error of the file. Here the text is kept, and printed only if nothing caught it.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use crate::failure::{Class, Failure, Outcome};

static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command; a panic that nothing else caught becomes a [`Failure`].
pub(crate) fn guarded(command: impl FnOnce() -> Outcome) -> Outcome {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let mut text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        if let Some(place) = info.location() {
            text.push_str(&format!(" ({}:{})", place.file(), place.line()));
        }
        // Only where RUST_BACKTRACE asks for it.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\n{trace}"));
        }
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }));
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        let text = last.unwrap_or_default();
        // `println!` panics where the reader is gone or the disk of the output is full.
        if text.starts_with("failed printing to stdout") {
            return Err(if text.contains("Broken pipe") {
                Failure::reader_gone()
            } else {
                Failure::write("standard output", &io::Error::other(text))
            });
        }
        Err(
            Failure::new(Class::Failure, format!("fault inside the program: {text}"))
                .hint("this is a bug of llavar; please report it with the command that you ran"),
        )
    })
}
