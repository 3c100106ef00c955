//! The page.

use super::browser::{BrowserOptions, shown};
use super::input::ReportRun;
use super::published::REMARK;
use super::summary::{ColumnSummary, PAIRED, Summary, difference};
use crate::results::{MetricResult, Unit};
use llavar_report::{BarChart, BarSeries, BarValue, Cards, Cell, Page, Pictures, Table};

/// The page of one or several runs as HTML.
pub fn html(runs: &[ReportRun], summary: &Summary, options: &BrowserOptions) -> String {
    let answerers = summary.answerers();
    let mut page = Page::new(format!("evaluation of {}", answerers.join(" and ")));
    page.notes(&summary.faults);
    page.section("Beside the published LLaVAR-2");
    page.add(&published(summary));
    page.section("All metrics");
    page.add(&all_metrics(summary));
    if !summary.pairings.is_empty() {
        page.section("Paired comparisons");
        page.add(&pairings(summary));
    }
    let judges = judges(summary);
    if !judges.is_empty() {
        page.section("Judged by language models");
        page.paragraph(JUDGES);
        page.facts(judges);
    }
    page.section("What became of the questions");
    page.add(&counts(summary));
    page.notes(summary.columns.iter().flat_map(|column| {
        let notes = column.result.notes.iter();
        notes.map(move |note| format!("{}, {}: {note}", column.title(), column.by))
    }));
    let mut pictures = Pictures::new(options.picture_side, options.picture_bytes);
    for title in summary.titles() {
        page.section(&title);
        if let Some(chart) = by_category(summary, &title) {
            page.add(&chart);
        }
        let shown = shown(runs, &title, options, &mut pictures);
        let mut said = format!(
            "{} of {} questions are shown",
            shown.cards.len(),
            shown.questions
        );
        if options.only_wrong {
            said += &format!(
                ", of the {} that are not answered right by all",
                shown.chosen
            );
        }
        if shown.cards.len() < shown.chosen {
            said += ", evenly spread";
        }
        page.paragraph(said + ".");
        page.add(&Cards {
            cards: &shown.cards,
            pictures: &pictures,
        });
    }
    if pictures.left_out() > 0 {
        page.notes([format!(
            "{} pictures are left out to keep the page small; --picture-mib sets the limit",
            pictures.left_out()
        )]);
    }
    page.section("Settings");
    for column in &summary.columns {
        page.paragraph(format!("{}, {}", column.by, column.title()));
        page.facts(settings(column));
    }
    page.render()
}

const JUDGES: &str = "Verdicts of language models are no scores of the tasks. They depend on the judge and its prompt, \
under whose names they stand.";

/// Each verdict under the task and the run that was judged.
fn judges(summary: &Summary) -> Vec<(String, String)> {
    let of = |column: &ColumnSummary| {
        let name = format!("{}, {}", column.title(), column.by);
        column
            .judges
            .iter()
            .map(move |judge| (judge.title(&name), judge.line()))
            .collect::<Vec<_>>()
    };
    summary.columns.iter().flat_map(of).collect()
}

fn pairings(summary: &Summary) -> Table {
    let mut table = Table::new([
        "task",
        "A",
        "B",
        "metric",
        "value of A",
        "value of B",
        "B - A",
        "95 % interval",
        "p",
        "B better",
        "A better",
        "pairs",
    ]);
    for pairing in &summary.pairings {
        let c = &pairing.comparison;
        let mut apart = Vec::new();
        for (count, what) in [
            (c.only_in_a, "only in A"),
            (c.only_in_b, "only in B"),
            (c.unlike, "unlike"),
        ] {
            if count > 0 {
                apart.push(format!("{count} {what}"));
            }
        }
        for m in &c.metrics {
            let unit = Unit::of_mean(&m.metric);
            let value = |value: f64| {
                let scaled = unit.scale * value;
                let shown = format!("{scaled:.*}{}", unit.decimals, unit.suffix);
                Cell::number(scaled, shown)
            };
            table.row([
                Cell::from(&*pairing.task),
                Cell::from(&*pairing.a),
                Cell::from(&*pairing.b),
                Cell::from(&*m.metric),
                value(m.a),
                value(m.b),
                Cell::number(unit.scale * m.difference, difference(unit, m.difference))
                    .best(m.p < 0.05),
                Cell::from(m.interval.map(|end| difference(unit, end)).join(" to ")),
                Cell::number(m.p, format!("{:.4}", m.p)),
                m.better.into(),
                m.worse.into(),
                Cell::from(m.pairs).maybe_note(apart.join(", ")),
            ]);
        }
    }
    table.caption(format!(
        "Means of the questions' scores, paired by question. {PAIRED} The interval draws whole pictures anew, p \
         swaps A and B by picture; differences with p below 0.05 are in bold (of 20 true zeros one is).",
    ));
    table
}

fn published(summary: &Summary) -> Table {
    let tasks = summary.published_tasks;
    let head = ["model", "OCR", "metric"].into_iter();
    let mut table = Table::new(head.chain(tasks.iter().map(|task| task.name)));
    for row in summary.published {
        let label = [
            Cell::from(row.model).note("published"),
            "on".into(),
            "MultimodalOCR containment".into(),
        ];
        let values = row.values.iter().map(|value| match value {
            Some(value) if *value > 100.0 => Cell::number(*value, format!("{value:.0}")),
            Some(value) => Cell::number(*value, format!("{value:.1}")),
            None => Cell::from("\u{2013}"),
        });
        table.row(label.into_iter().chain(values).map(Cell::quiet));
    }
    for by in summary.answerers() {
        let own: Vec<&ColumnSummary> = summary.columns.iter().filter(|c| c.by == by).collect();
        let ocr = super::summary::distinct(own.iter().map(|column| column.ocr())).join(", ");
        let cells = tasks.iter().map(|task| {
            let column = own.iter().find(|column| column.result.task == task.task);
            let metric = column.and_then(|column| column.metric(Some(task.metric)));
            metric.map_or(Cell::from(""), |metric| {
                value_cell(metric, metric.metric != task.metric)
            })
        });
        let cells: Vec<Cell> = cells.collect();
        let other = tasks.iter().any(|task| {
            let column = own.iter().find(|column| column.result.task == task.task);
            let metric = column.and_then(|column| column.metric(Some(task.metric)));
            metric.is_some_and(|metric| metric.metric != task.metric)
        });
        let metric = if other {
            "containment, or as named"
        } else {
            "containment"
        };
        let label = [Cell::from(by), ocr.into(), metric.into()];
        table.row(label.into_iter().chain(cells));
    }
    table.caption(REMARK);
    table
}

/// A value over its error and its number of questions.
fn value_cell(metric: &MetricResult, named: bool) -> Cell {
    let name = if named {
        format!(", {}", metric.metric)
    } else {
        String::new()
    };
    let estimate = &metric.overall;
    let shown = metric.shown(estimate);
    // Columns of the published table are percent; a count says of how many.
    let shown = shown.trim_end_matches(" %").to_owned();
    let note = format!("{}, n {}{name}", metric.shown_error(estimate), estimate.n);
    Cell::number(metric.unit().scale * estimate.value, shown).note(note)
}

fn all_metrics(summary: &Summary) -> Table {
    let mut table = Table::new([
        "task",
        "answered by",
        "OCR",
        "metric",
        "value",
        "standard error",
        "questions",
        "pictures",
        "of the answered only",
    ]);
    for column in &summary.columns {
        for metric in &column.result.metrics {
            let all = &metric.overall;
            let unit = metric.unit();
            let answered = metric.answered_only.filter(|answered| answered.n != all.n);
            table.row([
                column.title().into(),
                Cell::from(&*column.by),
                column.ocr().into(),
                Cell::from(format!("{} v{}", metric.metric, metric.version)),
                Cell::number(unit.scale * all.value, metric.shown(all)),
                Cell::number(
                    unit.scale * all.standard_error.unwrap_or(f64::NAN),
                    metric.shown_error(all),
                ),
                all.n.into(),
                all.images.into(),
                answered.map_or(Cell::from(""), |a| {
                    Cell::number(unit.scale * a.value, metric.shown(&a)).note(format!("n {}", a.n))
                }),
            ]);
        }
    }
    table.caption("\u{B1} is one standard error, with the pictures as clusters; \u{2013} where there is only one. Questions without an answer score 0.");
    table
}

fn counts(summary: &Summary) -> Table {
    let counted = |column: &ColumnSummary| {
        let c = &column.result.counts;
        [
            ("questions", c.questions),
            ("scored", c.scored),
            ("answered", c.answered),
            ("missing", c.missing),
            ("failed", c.errors),
            ("no picture", c.without_image),
            ("no reference", c.without_reference),
            ("repeated answers", c.repeated),
            ("unknown ids", c.unknown),
            ("unusable lines", c.unusable_lines),
        ]
    };
    let all: Vec<_> = summary.columns.iter().map(counted).collect();
    // The first four say how complete a run is; of the faults only those that there are.
    let kept: Vec<usize> = (0..10)
        .filter(|&at| at < 4 || all.iter().any(|c| c[at].1 > 0))
        .collect();
    let names = all
        .first()
        .map(|c| kept.iter().map(|&at| c[at].0).collect::<Vec<_>>());
    let mut table = Table::new(
        ["task", "answered by"]
            .into_iter()
            .chain(names.unwrap_or_default()),
    );
    for (column, counts) in summary.columns.iter().zip(&all) {
        let names = [Cell::from(column.title()), Cell::from(&*column.by)];
        table.row(
            names
                .into_iter()
                .chain(kept.iter().map(|&at| counts[at].1.into())),
        );
    }
    table.caption("Missing and failed answers score 0; repeated and unknown ones and unusable lines do not count.");
    table
}

/// Bars for the kinds of questions of a task; none where it has fewer than two.
fn by_category(summary: &Summary, title: &str) -> Option<BarChart> {
    let columns: Vec<(&ColumnSummary, &MetricResult)> = summary
        .of(title)
        .filter_map(|column| Some((column, column.metric(None)?)))
        .collect();
    let (_, first) = columns.first()?;
    let kinds = columns.iter().flat_map(|(_, metric)| &metric.by_category);
    let labels = super::summary::distinct(kinds.map(|kind| kind.category.as_str()));
    if labels.len() < 2 {
        return None;
    }
    let bar = |metric: &MetricResult, label: &str| {
        let kind = metric
            .by_category
            .iter()
            .find(|kind| kind.category == label)?;
        let e = &kind.estimate;
        // A count is drawn as a share, so that kinds of different sizes can be compared.
        let share = if metric.is_count() {
            1.0 / e.n.max(1) as f64
        } else {
            1.0
        };
        Some(BarValue {
            value: share * e.value,
            error: e.standard_error.map(|error| share * error),
            shown: if metric.is_count() {
                metric.shown(e)
            } else {
                format!("{} (n {})", metric.shown(e), e.n)
            },
        })
    };
    Some(BarChart {
        title: format!("{}, by kind of question", first.metric),
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        series: columns
            .iter()
            .map(|(column, metric)| BarSeries {
                name: column.by.clone(),
                values: labels.iter().map(|label| bar(metric, label)).collect(),
            })
            .collect(),
        full: (first.metric != "cider_d").then_some(1.0),
    })
}

fn settings(column: &ColumnSummary) -> Vec<(&'static str, String)> {
    let result = &column.result;
    let none = || "not recorded".to_owned();
    let Some(settings) = &result.settings else {
        return vec![
            ("model", result.model_id.clone().unwrap_or_else(none)),
            (
                "answers",
                "of another tool: their settings are not recorded".into(),
            ),
        ];
    };
    let (model, prompt, decode) = (&settings.model, &settings.prompt, &settings.decode);
    let mut facts = vec![
        ("model", model.id.clone()),
        ("model hash", model.hash.clone().unwrap_or_else(none)),
        ("element type", model.dtype.clone().unwrap_or_else(none)),
        ("template", model.template.clone().unwrap_or_else(none)),
        ("prompt", prompt.format.clone()),
        ("OCR", prompt.ocr.as_str().into()),
        ("prompt hash", prompt.hash.clone()),
        ("temperature", decode.temperature.to_string()),
        ("beams", decode.num_beams.to_string()),
        ("longest answer [tokens]", decode.max_new_tokens.to_string()),
        ("seed", decode.seed.to_string()),
    ];
    if decode.closer {
        facts.push(("closer look", "where the model is unsure".into()));
    }
    facts.extend(
        model
            .endpoint
            .clone()
            .map(|endpoint| ("endpoint", endpoint)),
    );
    facts.extend(prompt.ocr_lines.clone().map(|lines| ("OCR text", lines)));
    facts.extend(result.run.clone().map(|run| ("run", run)));
    facts
}
