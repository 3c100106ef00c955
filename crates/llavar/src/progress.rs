//! Progress and notes on stderr; results go to stdout.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line for people, on stderr.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody may be left to read it; that must not end the work.
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

/// A bar with rate and time to go. Where stderr is no terminal (a log file, CI) it draws nothing, and
/// [`Progress::line`] prints now and then instead.
pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
    last: std::time::Instant,
}

impl Progress {
    /// A bar of `total` units called `unit`.
    pub(crate) fn new(what: &str, unit: &str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(8)
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = format!(
            "{what:<12} [{{bar:28}}] {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}} {{msg}}"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            plain,
            last: std::time::Instant::now(),
        }
    }

    /// Corrects the number of units, where it is known only on the way.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    /// Moves to `done` units and shows `message` beside the bar.
    pub(crate) fn set(&mut self, done: u64, message: String) {
        self.bar.set_position(done);
        if self.plain && self.last.elapsed() > Duration::from_secs(15) {
            self.last = std::time::Instant::now();
            let total = self.bar.length().unwrap_or(0);
            let eta = self.bar.eta().as_secs();
            note(format!("  {done}/{total} {message} (eta {eta} s)"));
        }
        self.bar.set_message(message);
    }

    /// Prints a line above the bar.
    pub(crate) fn line(&self, text: &str) {
        if self.plain {
            note(text)
        } else {
            self.bar.suspend(|| note(text))
        }
    }

    /// Ends the bar and leaves one line.
    pub(crate) fn finish(self, text: &str) {
        self.bar.finish_and_clear();
        note(text);
    }
}
