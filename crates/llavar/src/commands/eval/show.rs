//! Results as a table for people.

use llavar_eval::results::{Estimate, MetricResult, RunResult};

fn value(metric: &MetricResult, estimate: &Estimate) -> String {
    format!(
        "{} {}",
        metric.shown(estimate),
        metric.shown_error(estimate)
    )
}

/// A table of results, one line a metric and, where kinds of questions are known, one a kind.
pub(crate) fn table(results: &[RunResult]) -> String {
    let mut text = String::new();
    for result in results {
        let counts = &result.counts;
        let ocr = match &result.settings {
            Some(settings) => format!(", OCR {}", settings.prompt.ocr.as_str()),
            None => String::new(),
        };
        let images = result.metrics.first().map_or(0, |m| m.overall.images);
        text += &format!(
            "{}{ocr}: {} of {} questions scored, {images} pictures, {} answered, {} missing, {} failed\n",
            result.title(),
            counts.scored,
            counts.questions,
            counts.answered,
            counts.missing,
            counts.errors,
        );
        for metric in &result.metrics {
            let name = format!("{} v{}", metric.metric, metric.version);
            text += &format!("  {name:<36} {}\n", value(metric, &metric.overall));
            if let Some(answered) = &metric.answered_only
                && answered.n != metric.overall.n
            {
                let what = format!("of the {} answered", answered.n);
                text += &format!("    {what:<34} {}\n", value(metric, answered));
            }
            for kind in &metric.by_category {
                let what = format!("{} ({})", kind.category, kind.estimate.n);
                text += &format!("    {what:<34} {}\n", value(metric, &kind.estimate));
            }
        }
        for note in &result.notes {
            text += &format!("  note: {note}\n");
        }
    }
    text + "± is one standard error, over pictures as clusters; – where there is only one.\n"
}
