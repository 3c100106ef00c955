//! Progress and notes on stderr; results go to stdout.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    last: Instant,
    pace: Pace,
}

/// How fast it goes on the whole. The bar's own estimate forgets within seconds, so that units of a minute
/// would take for ever by it.
struct Pace {
    begun: Instant,
    /// What was done when it was first told, and when: a run that goes on begins far ahead.
    first: Option<(u64, Instant)>,
}

impl Pace {
    /// Time to go, if anything can be said of it yet.
    fn left(&mut self, done: u64, total: u64, now: Instant) -> Option<Duration> {
        let (first, since) = *self.first.get_or_insert((done, now));
        // The first unit is all that is known at first; what was there before took no time.
        let (units, seconds) = match done.checked_sub(first) {
            Some(0) if first <= 1 => (done, now.duration_since(self.begun)),
            Some(units) => (units, now.duration_since(since)),
            None => return None,
        };
        let each = seconds.as_secs_f64() / units as f64;
        let left = each * total.saturating_sub(done) as f64;
        Duration::try_from_secs_f64(left).ok().filter(|_| units > 0)
    }
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
        let template =
            format!("{what:<12} [{{bar:28}}] {{pos}}/{{len}} {unit} {{per_sec}} {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            plain,
            last: Instant::now(),
            pace: Pace {
                begun: Instant::now(),
                first: None,
            },
        }
    }

    /// Corrects the number of units, where it is known only on the way.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    /// Moves to `done` units and shows `message` beside the bar.
    pub(crate) fn set(&mut self, done: u64, message: String) {
        self.bar.set_position(done);
        let total = self.bar.length().unwrap_or(0);
        let left = self.pace.left(done, total, Instant::now());
        if self.plain && self.last.elapsed() > Duration::from_secs(15) {
            self.last = Instant::now();
            let eta = left.map_or("not known yet".to_owned(), |left| {
                format!("{} s", left.as_secs())
            });
            note(format!("  {done}/{total} {message} (eta {eta})"));
        }
        let eta = left.map_or(String::new(), |left| {
            format!("eta {} ", HumanDuration(left))
        });
        self.bar.set_message(eta + &message);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_units_have_an_end() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut pace = Pace { begun, first: None };
        let mut left = |done, seconds| pace.left(done, 50, at(seconds)).map(|d| d.as_secs());
        assert_eq!(left(0, 1), None);
        assert_eq!(left(1, 100), Some(99 * 49));
        assert_eq!(left(2, 200), Some(4776));
        assert_eq!(left(50, 5000), Some(0));
        // What a resumed run finds done says nothing of its pace.
        let mut pace = Pace { begun, first: None };
        let mut left = |done, seconds| pace.left(done, 50, at(seconds)).map(|d| d.as_secs());
        assert_eq!(left(40, 2), None);
        assert_eq!(left(41, 12), Some(90));
        assert_eq!(left(3, 13), None);
    }
}
