//! A step's place in time on a GPU: when it computed, when it exchanged with other ranks, and how long the
//! one waited for the other.

use std::path::Path;

use llavar_tensor::cuda::{EXCHANGE_WAIT, Lane, Span, Trace};
use serde::Serialize;

use super::Trainer;
use crate::{TrainError, observer::Observer};

/// Where the time of a step went, on one rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceSummary {
    /// The step.
    pub step: u64,
    /// From the first to the last piece of work, milliseconds.
    pub total_ms: f64,
    /// Milliseconds in which an exchange with other ranks was under way.
    pub exchange_ms: f64,
    /// Milliseconds in which the computation waited for an exchange.
    pub waited_ms: f64,
}

impl TraceSummary {
    fn of(step: u64, spans: &[Span]) -> Self {
        let sum = |keep: &dyn Fn(&Span) -> bool| -> f64 {
            let kept = spans.iter().filter(|s| keep(s));
            kept.map(|s| s.end_ms - s.start_ms).sum()
        };
        Self {
            step,
            total_ms: spans.iter().map(|s| s.end_ms).fold(0.0, f64::max),
            exchange_ms: sum(&|s| s.lane == Lane::Communication),
            waited_ms: sum(&|s| s.name == EXCHANGE_WAIT),
        }
    }

    /// Share of the exchanges that went on beside computation, percent; 100 where there were none.
    pub fn overlap_percent(&self) -> f64 {
        if self.exchange_ms <= 0.0 {
            return 100.0;
        }
        (100.0 * (1.0 - self.waited_ms / self.exchange_ms)).max(0.0)
    }
}

impl Trainer {
    /// Begins the trace of the next step, where the recipe asks for it.
    pub(super) fn begin_trace(
        &self,
        observer: &mut dyn Observer,
    ) -> Result<Option<Trace>, TrainError> {
        if self.recipe.log.trace_step == 0 || self.state.step + 1 != self.recipe.log.trace_step {
            return Ok(None);
        }
        match self.place.device.as_cuda() {
            Some(cuda) => Ok(Some(cuda.begin_trace()?)),
            None => {
                observer.on_warning("log.trace_step: only a GPU's work is traced");
                Ok(None)
            }
        }
    }

    /// Waits for the step, writes its trace and tells the observer.
    pub(super) fn finish_trace(
        &self,
        trace: Trace,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Some(cuda) = self.place.device.as_cuda() else {
            return Ok(());
        };
        let spans = cuda.finish_trace(trace)?;
        let (step, rank) = (self.state.step, self.group.rank());
        let path = self.run_dir.join(format!("trace-{step}-rank-{rank}.json"));
        write(&path, rank, &spans).map_err(|e| TrainError::save(&path, e))?;
        observer.on_trace(&path, &TraceSummary::of(step, &spans));
        Ok(())
    }
}

/// Writes spans as trace events, the JSON that Perfetto and Chrome's tracing page read.
fn write(path: &Path, rank: usize, spans: &[Span]) -> std::io::Result<()> {
    let event = |span: &Span| {
        serde_json::json!({
            "name": span.name,
            "ph": "X",
            "pid": rank,
            "tid": match span.lane { Lane::Compute => 0, Lane::Communication => 1 },
            // Microseconds.
            "ts": 1e3 * span.start_ms,
            "dur": 1e3 * (span.end_ms - span.start_ms),
        })
    };
    let label = |tid: usize, name: &str| {
        serde_json::json!({
            "name": "thread_name", "ph": "M", "pid": rank, "tid": tid, "args": {"name": name},
        })
    };
    let mut events = vec![label(0, "compute"), label(1, "exchanges")];
    events.extend(spans.iter().map(event));
    let text = serde_json::json!({ "traceEvents": events }).to_string();
    let aside = path.with_extension("json.tmp");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, lane: Lane, start_ms: f64, end_ms: f64) -> Span {
        Span {
            name: name.into(),
            lane,
            start_ms,
            end_ms,
        }
    }

    #[test]
    fn exchanges_beside_computation_are_told_from_waits() {
        let spans = [
            span("product", Lane::Compute, 0.0, 4.0),
            span("all_gather", Lane::Communication, 1.0, 6.0),
            span(EXCHANGE_WAIT, Lane::Compute, 4.0, 6.0),
            span("product", Lane::Compute, 6.0, 9.0),
            span("reduce_scatter", Lane::Communication, 6.0, 11.0),
        ];
        let summary = TraceSummary::of(3, &spans);
        assert_eq!(
            (summary.total_ms, summary.exchange_ms, summary.waited_ms),
            (11.0, 10.0, 2.0)
        );
        assert_eq!(summary.overlap_percent(), 80.0);
        assert_eq!(TraceSummary::of(3, &spans[..1]).overlap_percent(), 100.0);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        write(&path, 1, &spans).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = read["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + spans.len());
        assert_eq!(
            (&events[3]["ts"], &events[3]["dur"], &events[3]["tid"]),
            (&1000.0.into(), &5000.0.into(), &1.into())
        );
    }
}
