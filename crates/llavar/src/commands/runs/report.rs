//! `llavar runs report`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use llavar_data::{Dataset, ImageSource};
use llavar_image::{DecodeLimits, decode_bytes, decode_file};
use llavar_report::{
    Answer, Axis, Card, Cards, Cell, LineChart, Marker, Page, Pictures, Series, Table, Thumbnail,
    significant,
};
use llavar_train::runs::Run;
use serde_json::Value;

use super::{
    duration,
    list::gib,
    open,
    plot::{axis_label, not_over_run},
};
use crate::{
    commands::{not_over, print, write_file},
    failure::Outcome,
};

/// Longest side of a picture, px.
const PICTURE: usize = 384;
/// Events that the page lists.
const EVENTS: usize = 300;

/// Write a page about a run: curves, throughput, memory, events, worst samples with their pictures.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar runs report runs/sft --out report.html")]
pub(crate) struct Args {
    /// Run folder.
    run: PathBuf,
    /// The page; RUN/report.html where it is not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Most bytes of embedded pictures, MiB.
    #[arg(long, default_value_t = 24, value_name = "MIB")]
    max_picture_mib: usize,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let runs = open(&[&args.run])?;
    for run in &runs {
        let out = args
            .out
            .clone()
            .unwrap_or_else(|| run.path.join("report.html"));
        not_over_run("--out", &out, &runs, "html")?;
        for data in run.worst.iter().filter_map(|w| w["data_path"].as_str()) {
            not_over("--out", &out, &[("the data", Path::new(data))])?;
        }
        let html = page(run, args.max_picture_mib << 20);
        write_file(&out, html.as_bytes())?;
        print(format!("{}\n", out.display()))?;
    }
    Ok(())
}

fn page(run: &Run, picture_bytes: usize) -> String {
    let mut page = Page::new(format!("Training run {}", run.name()));
    page.facts(facts(run));
    page.notes(&run.notes);
    page.notes(problems(run));
    page.section("Loss");
    add_chart(&mut page, run, &["loss"], 1.0, true);
    add_chart(&mut page, run, &["grad_norm"], 1.0, true);
    add_chart(&mut page, run, &["learning_rate"], 1.0, false);
    page.section("Throughput");
    let rates = ["tokens_per_second", "supervised_tokens_per_second"];
    add_chart(&mut page, run, &rates, 1.0, false);
    for key in [
        "images_per_second",
        "mfu_percent",
        "data_wait_percent",
        "seconds",
    ] {
        add_chart(&mut page, run, &[key], 1.0, false);
    }
    page.section("Memory");
    let memory = ["tensor_peak_bytes", "resident_bytes"];
    add_chart(&mut page, run, &memory, (1u64 << 30) as f64, false);
    if let Some(plan) = run.fact("memory_plan").and_then(Value::as_str) {
        page.paragraph(format!("Planned: {plan}"));
    }
    page.section("Worst samples");
    worst(&mut page, run, picture_bytes);
    page.section("Events");
    events(&mut page, run);
    page.section("Settings");
    match run.recipe.as_ref().map(llavar_train::Recipe::to_toml) {
        Some(Ok(text)) => page.commands([text]),
        _ => page.paragraph("The recipe cannot be read."),
    }
    page.render()
}

fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let (step, total) = run.progress();
    let number = |value: Option<f64>, digits, unit: &str| {
        value.map(|value| format!("{}{unit}", significant(value, digits)))
    };
    let million = |key: &str| run.fact(key)?.as_f64().map(|n| n / 1e6);
    let text = |key: &str| run.fact(key)?.as_str().map(str::to_owned);
    let ranks = run.fact("ranks").and_then(Value::as_u64);
    let all = [
        ("status", Some(run.status.as_str().to_owned())),
        ("steps", Some(format!("{step} of {total}"))),
        (
            "loss at the end",
            number(run.final_loss(), 4, " nats/token"),
        ),
        ("time", Some(duration(run.seconds()))),
        (
            "tokens/s, median",
            number(run.median("tokens_per_second"), 4, ""),
        ),
        ("MFU, median", number(run.median("mfu_percent"), 3, " %")),
        (
            "data wait, median",
            number(run.median("data_wait_percent"), 3, " %"),
        ),
        (
            "peak of tensors",
            number(run.most("tensor_peak_bytes").map(gib), 3, " GiB"),
        ),
        ("device", text("device")),
        ("ranks", ranks.filter(|n| *n > 1).map(|n| n.to_string())),
        ("parameters", number(million("parameters"), 4, " M")),
        (
            "that train",
            number(million("trainable_parameters"), 4, " M"),
        ),
        ("llavar", text("version")),
        ("folder", Some(run.path.display().to_string())),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// What a reader must not overlook.
fn problems(run: &Run) -> Vec<String> {
    let count = |key: &str| run.values(key).iter().filter(|(_, v)| *v > 0.0).count();
    let happened = |what: &str| {
        let events = run.events.iter();
        events
            .filter(|e| e.get("event").is_some_and(|v| v == what))
            .count()
    };
    let lost = run.rows.len() - run.values("loss").len();
    [
        (
            count("skipped"),
            "step(s) without an update: the gradient was not finite, or a spike",
        ),
        (count("spike"), "spike(s) of loss or gradient norm"),
        (happened("rollback"), "rollback(s) to a checkpoint"),
        (lost, "step(s) whose loss is not finite"),
        (happened("error"), "error(s) that ended a session"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

/// Adds a chart of values of the log, divided by `unit`; nothing where there are none.
fn add_chart(page: &mut Page, run: &Run, keys: &[&str], unit: f64, log: bool) {
    let curves = keys.iter().map(|key| Series {
        name: axis_label(key).replace("[bytes]", "[GiB]"),
        points: run
            .rows
            .iter()
            .filter(|row| row.values.contains_key(*key) || *key == "loss")
            .map(|row| {
                // A loss that is not finite is null in the log; the chart counts it.
                let value = row.values.get(*key).copied().unwrap_or(f64::NAN);
                (row.step as f64, value / unit)
            })
            .collect(),
    });
    let series: Vec<Series> = curves.filter(|s| !s.points.is_empty()).collect();
    let Some(first) = series.first() else { return };
    let label = match series.len() {
        1 => first.name.clone(),
        _ if unit > 1.0 => "GiB".into(),
        _ => "tokens/s".into(),
    };
    let positive = series
        .iter()
        .flat_map(|s| &s.points)
        .all(|p| p.1 > 0.0 || p.1.is_nan());
    let points = first.points.len();
    page.add(&LineChart {
        title: label.clone(),
        x: Axis::linear("step"),
        y: if log && positive {
            Axis::log(label)
        } else {
            Axis::linear(label)
        },
        smooth: if log && points > 200 { points / 100 } else { 0 },
        at_x: markers(run),
        series,
    });
}

/// Steps at which the run was taken up again or went back.
fn markers(run: &Run) -> Vec<Marker> {
    let marked = run.events.iter().filter_map(|event| {
        let step = event.get("step")?.as_f64()?;
        let label = match event.get("event")?.as_str()? {
            "start" if step > 0.0 => "resumed",
            "rollback" => "back to",
            _ => return None,
        };
        Some(Marker {
            value: step,
            label: label.to_owned(),
        })
    });
    marked.take(20).collect()
}

fn worst(page: &mut Page, run: &Run, picture_bytes: usize) {
    if run.worst.is_empty() {
        page.paragraph(
            "None were kept: log.worst_samples is 0, or the run has not saved a checkpoint yet.",
        );
        return;
    }
    page.paragraph(format!(
        "The {} samples whose loss stood highest above that of their step when they were last seen. Wrong answers, \
         unreadable pictures and texts in another language come first.",
        run.worst.len()
    ));
    let mut pictures = Pictures::new(PICTURE, picture_bytes);
    let mut sets = Sets::default();
    let cards: Vec<Card> = run
        .worst
        .iter()
        .map(|sample| card(sample, &mut sets, &mut pictures))
        .collect();
    page.add(&Cards {
        cards: &cards,
        pictures: &pictures,
    });
}

fn card(sample: &Value, sets: &mut Sets, pictures: &mut Pictures) -> Card {
    let text = |key: &str| sample.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| sample.get(key).and_then(Value::as_f64);
    let names = sample.get("images").and_then(Value::as_array);
    let name = names.and_then(|names| names.first()?.as_str());
    let picture = match name {
        None => Thumbnail::None,
        Some(name) => sets.picture(sample, name, pictures),
    };
    let shown = |key: &str| number(key).map_or("?".into(), |value| significant(value, 4));
    let scores = [("loss", "loss"), ("above its step", "excess")];
    let scores = scores
        .into_iter()
        .filter_map(|(name, key)| Some((name.to_owned(), number(key)?)));
    Card {
        id: text("id").to_owned(),
        picture,
        picture_name: name.unwrap_or_default().to_owned(),
        category: String::new(),
        question: text("question")
            .replace(llavar_data::IMAGE_TAG, "")
            .trim()
            .to_owned(),
        gold: vec![text("answer").to_owned()],
        answers: vec![Answer {
            text: format!(
                "loss {} nats/token over {} tokens, {} above its step",
                shown("loss"),
                shown("tokens"),
                shown("excess")
            ),
            scores: scores.collect(),
            ..Answer::default()
        }],
        remarks: vec![format!(
            "step {}; sample {} of {}",
            shown("step"),
            shown("number"),
            text("data_path")
        )],
    }
}

/// Data sets of the samples, each opened once.
#[derive(Default)]
struct Sets(HashMap<(String, String), Result<Dataset, String>>);

impl Sets {
    fn picture(&mut self, sample: &Value, name: &str, pictures: &mut Pictures) -> Thumbnail {
        match self.source(sample) {
            Err(reason) => Thumbnail::Missing(reason),
            Ok(source) => {
                let limits = DecodeLimits::default();
                let path = match &source {
                    ImageSource::File(path) => path.display().to_string(),
                    // Names within a container need not differ.
                    ImageSource::Bytes { name: path, .. } => {
                        format!("{} {}", path.display(), sample["number"])
                    }
                };
                pictures.get(&path, || match &source {
                    ImageSource::File(path) => decode_file(path, &limits),
                    ImageSource::Bytes { bytes, .. } => {
                        decode_bytes(bytes, Path::new(name), &limits)
                    }
                })
            }
        }
    }

    fn source(&mut self, sample: &Value) -> Result<ImageSource, String> {
        let text = |key: &str| sample.get(key).and_then(Value::as_str).unwrap_or_default();
        let (data, folder) = (
            text("data_path").to_owned(),
            text("image_folder").to_owned(),
        );
        let set = self
            .0
            .entry((data, folder))
            .or_insert_with_key(|(data, folder)| {
                let folder = Some(Path::new(folder)).filter(|f| !f.as_os_str().is_empty());
                Dataset::open(Path::new(data), folder).map_err(|error| error.to_string())
            });
        let set = set.as_ref().map_err(Clone::clone)?;
        let number = sample
            .get("number")
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX) as usize;
        if number >= set.len() {
            return Err("the data set has changed since".into());
        }
        let record = set.get(number).map_err(|error| error.to_string())?;
        if record.id.to_string() != text("id") {
            return Err("the data set has changed since".into());
        }
        set.image(number, &record, 0)
            .map_err(|error| error.to_string())
    }
}

fn events(page: &mut Page, run: &Run) {
    let events: Vec<&Value> = run.events.iter().filter(|e| e.is_object()).collect();
    if events.is_empty() {
        page.paragraph("None were written.");
        return;
    }
    let time = |event: &Value| event.get("time").and_then(Value::as_f64);
    let begun = events.first().and_then(|event| time(event)).unwrap_or(0.0);
    let mut table = Table::new(["after", "what", "step", "says"]);
    let left_out = events.len().saturating_sub(EVENTS);
    for event in &events[left_out..] {
        let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
        let since = time(event).unwrap_or(begun) - begun;
        let says = text("message").or(text("path")).or(text("device"));
        let says = says.or_else(|| {
            event
                .get("spike")
                .map(|s| format!("for the spike at step {s}"))
        });
        let step = event.get("step").and_then(Value::as_f64);
        table.row([
            Cell::number(since, duration(since)),
            text("event").unwrap_or_default().into(),
            step.map_or(Cell::default(), |step| {
                Cell::number(step, format!("{step}"))
            }),
            says.unwrap_or_default().into(),
        ]);
    }
    if left_out > 0 {
        table.caption(format!("{left_out} earlier events are left out"));
    }
    page.add(&table);
}
