//! What `GET /metrics` tells: names as vLLM's, with a prefix of our own.

mod histogram;

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use llavar_assistant::PictureCounts;

pub(crate) use histogram::Histogram;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The model was done.
    Stop,
    /// The answer was as long as it may be.
    Length,
    /// The client went away.
    Cancelled,
    /// The request could not be answered as it was.
    Refused,
    /// There was no room.
    Overloaded,
    /// The server's fault.
    Failed,
}

impl Ending {
    const ALL: [Self; 6] = [
        Self::Stop,
        Self::Length,
        Self::Cancelled,
        Self::Refused,
        Self::Overloaded,
        Self::Failed,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Failed => "failed",
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) running: AtomicU64,
    endings: [AtomicU64; Ending::ALL.len()],
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pictures: [AtomicU64; 3],
    picture_bytes: AtomicU64,
    pub(crate) queue_time: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) whole: Histogram,
}

/// What is counted elsewhere.
pub(crate) struct Now {
    pub(crate) waiting: usize,
    pub(crate) connections: usize,
    pub(crate) slots: usize,
}

impl Metrics {
    pub(crate) fn count(&self, ending: Ending) {
        self.endings[ending as usize].fetch_add(1, Relaxed);
    }

    /// What the cache of pictures has done, and the bytes that it holds.
    pub(crate) fn set_pictures(&self, counts: PictureCounts, bytes: usize) {
        let all = [counts.asked, counts.encoded, counts.dropped];
        for (own, count) in self.pictures.iter().zip(all) {
            own.store(count as u64, Relaxed);
        }
        self.picture_bytes.store(bytes as u64, Relaxed);
    }

    /// The text format of Prometheus.
    pub(crate) fn render(&self, model: &str, now: &Now) -> String {
        let mut out = String::new();
        let mut one = |kind: &str, name: &str, help: &str, value: u64| {
            let name = format!("llavar_{name}");
            let _ = writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            );
        };
        let load = |count: &AtomicU64| count.load(Relaxed);
        one(
            "gauge",
            "num_requests_running",
            "Requests whose answers are generated",
            load(&self.running),
        );
        one(
            "gauge",
            "num_requests_waiting",
            "Requests that wait for room",
            now.waiting as u64,
        );
        one(
            "gauge",
            "num_slots",
            "Requests that can be answered side by side",
            now.slots as u64,
        );
        one(
            "gauge",
            "num_connections",
            "Open connections",
            now.connections as u64,
        );
        one(
            "counter",
            "prompt_tokens_total",
            "Tokens of prompts, image positions included",
            load(&self.prompt_tokens),
        );
        one(
            "counter",
            "generation_tokens_total",
            "Tokens generated",
            load(&self.generation_tokens),
        );
        let [asked, encoded, dropped] = self.pictures.each_ref().map(load);
        one(
            "counter",
            "picture_cache_queries_total",
            "Pictures of requests",
            asked,
        );
        one(
            "counter",
            "picture_cache_hits_total",
            "Pictures whose features were there",
            asked.saturating_sub(encoded),
        );
        one(
            "counter",
            "picture_cache_dropped_total",
            "Pictures whose features were let go",
            dropped,
        );
        one(
            "gauge",
            "picture_cache_bytes",
            "Bytes of features of pictures",
            load(&self.picture_bytes),
        );
        let _ = writeln!(
            out,
            "# HELP llavar_requests_total Requests by their ending\n# TYPE llavar_requests_total counter"
        );
        for ending in Ending::ALL {
            let count = load(&self.endings[ending as usize]);
            let _ = writeln!(
                out,
                "llavar_requests_total{{outcome=\"{}\"}} {count}",
                ending.name()
            );
        }
        for (histogram, name, help) in [
            (
                &self.queue_time,
                "request_queue_time_seconds",
                "From the time that a request was ready to its place among those answered",
            ),
            (
                &self.first_token,
                "time_to_first_token_seconds",
                "From the arrival of a request to its first token",
            ),
            (
                &self.per_token,
                "time_per_output_token_seconds",
                "Mean time between the tokens of an answer",
            ),
            (
                &self.whole,
                "e2e_request_latency_seconds",
                "From the arrival of a request to the end of its answer",
            ),
        ] {
            histogram.write(&mut out, &format!("llavar_{name}"), help);
        }
        let name = model
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = writeln!(
            out,
            "# HELP llavar_model_info The model that is served\n# TYPE llavar_model_info gauge\n\
             llavar_model_info{{model_name=\"{name}\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        out
    }
}
