//! The report as Markdown, without the questions.

use super::published::REMARK;
use super::summary::{ColumnSummary, PAIRED, Summary, difference, distinct};
use crate::results::{MetricResult, Unit};

/// Tables of the report as Markdown.
pub fn markdown(summary: &Summary) -> String {
    let mut out = format!(
        "# Evaluation of {}\n\n",
        plain(&summary.answerers().join(" and "))
    );
    for fault in &summary.faults {
        out += &format!("- **{}**\n", plain(fault));
    }
    out += "\n## Beside the published LLaVAR-2\n\n";
    let head: Vec<String> = ["model", "OCR"]
        .into_iter()
        .chain(summary.published_tasks.iter().map(|task| task.name))
        .map(str::to_owned)
        .collect();
    let mut rows = Vec::new();
    for row in summary.published {
        let values = row.values.iter().map(|value| match value {
            Some(value) if *value > 100.0 => format!("{value:.0}"),
            Some(value) => format!("{value:.1}"),
            None => "\u{2013}".into(),
        });
        let label = [format!("{} (published)", row.model), "on".into()];
        rows.push(label.into_iter().chain(values).collect());
    }
    for by in summary.answerers() {
        let own: Vec<&ColumnSummary> = summary.columns.iter().filter(|c| c.by == by).collect();
        let ocr = distinct(own.iter().map(|column| column.ocr())).join(", ");
        let cells = summary.published_tasks.iter().map(|task| {
            let column = own.iter().find(|column| column.result.task == task.task);
            let metric = column.and_then(|column| column.metric(Some(task.metric)));
            metric.map_or(String::new(), |metric| {
                let named = metric.metric != task.metric;
                with_error(metric)
                    + &if named {
                        format!(" {}", metric.metric)
                    } else {
                        String::new()
                    }
            })
        });
        rows.push([by.to_owned(), ocr].into_iter().chain(cells).collect());
    }
    out += &table(&head, &rows);
    out += &format!("\n{REMARK}\n\n## All metrics\n\n");
    let head = [
        "task",
        "answered by",
        "OCR",
        "metric",
        "value",
        "pictures",
        "missing",
        "failed",
    ];
    let rows: Vec<Vec<String>> = summary
        .columns
        .iter()
        .flat_map(|column| {
            column.result.metrics.iter().map(move |metric| {
                vec![
                    column.title(),
                    column.by.clone(),
                    column.ocr().to_owned(),
                    format!("{} v{}", metric.metric, metric.version),
                    with_error(metric),
                    metric.overall.images.to_string(),
                    column.result.counts.missing.to_string(),
                    column.result.counts.errors.to_string(),
                ]
            })
        })
        .collect();
    out += &table(&head.map(str::to_owned), &rows);
    out += "\n\u{B1} is one standard error, with the pictures as clusters; \u{2013} where there is only one. Questions without an answer score 0.\n";
    if !summary.pairings.is_empty() {
        out += "\n## Paired comparisons\n\n";
        let head = [
            "task",
            "A",
            "B",
            "metric",
            "B - A",
            "95 % interval",
            "p",
            "pairs",
        ];
        let rows: Vec<Vec<String>> = summary
            .pairings
            .iter()
            .flat_map(|pairing| {
                pairing.comparison.metrics.iter().map(move |m| {
                    let unit = Unit::of_mean(&m.metric);
                    vec![
                        pairing.task.clone(),
                        pairing.a.clone(),
                        pairing.b.clone(),
                        m.metric.clone(),
                        difference(unit, m.difference),
                        m.interval.map(|end| difference(unit, end)).join(" to "),
                        format!("{:.4}", m.p),
                        m.pairs.to_string(),
                    ]
                })
            })
            .collect();
        out += &table(&head.map(str::to_owned), &rows);
        out += &format!("\n{PAIRED}\n");
    }
    let judged = summary.columns.iter().flat_map(|column| {
        let name = format!("{}, {}", column.title(), column.by);
        let judges = column.judges.iter();
        judges.map(move |judge| {
            format!(
                "- {}: {}\n",
                plain(&judge.title(&name)),
                plain(&judge.line())
            )
        })
    });
    let judged: String = judged.collect();
    if !judged.is_empty() {
        out += &format!("\n## Judged by language models (no scores of the tasks)\n\n{judged}");
    }
    let notes: Vec<String> = summary
        .columns
        .iter()
        .flat_map(|column| {
            let notes = column.result.notes.iter();
            notes.map(move |note| format!("- {}, {}: {}\n", column.title(), column.by, plain(note)))
        })
        .collect();
    if !notes.is_empty() {
        out += &format!("\n## Notes\n\n{}", notes.concat());
    }
    out
}

fn with_error(metric: &MetricResult) -> String {
    let all = &metric.overall;
    format!(
        "{} {} (n {})",
        metric.shown(all),
        metric.shown_error(all),
        all.n
    )
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    line(head) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// Text that means nothing to Markdown and breaks no table.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '`' | '*' | '[' | ']' | '\\' | '&' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
