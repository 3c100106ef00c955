//! Counts of durations by size.

use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Upper ends of the buckets, seconds.
const ENDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Durations by size, as Prometheus counts them.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// One more than there are ends: what is longer than all of them.
    buckets: [u64; ENDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(crate) fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = ENDS.partition_point(|end| *end < seconds);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.buckets[bucket] += 1;
        counts.sum += seconds;
    }

    /// In the text format of Prometheus.
    pub(super) fn write(&self, out: &mut String, name: &str, help: &str) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (end, count) in ENDS.iter().zip(counts.buckets) {
            sum += count;
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {sum}");
        }
        let all: u64 = counts.buckets.iter().sum();
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {all}", counts.sum);
    }
}
