//! Every part of a page, with made-up numbers: `cargo run --release -p llavar-report --example gallery > gallery.html`.

use llavar_image::RgbImage;
use llavar_report::{
    Answer, Axis, BarChart, BarSeries, BarValue, Card, Cards, Cell, Histogram, LineChart, Marker,
    Page, Pictures, Point, Scatter, Series, Table,
};

fn main() {
    let wave = |i: usize, k: f64| ((i as f64) * k).sin();
    let mut page = Page::new("gallery");
    page.paragraph("Every part that a page can have. The numbers mean nothing.");
    page.facts([("model", "none"), ("decoding", "greedy"), ("OCR", "off")]);
    page.notes(["2 of 40 pictures are absent"]);

    page.section("Table");
    let mut table = Table::new(["model", "A [%]", "B [of 1,000]"]);
    table.row([
        "ours".into(),
        Cell::number(61.2, "61.2")
            .note("\u{B1} 1.4, n 800")
            .best(true),
        634.0.into(),
    ]);
    table.row([
        Cell::from("published").quiet(),
        Cell::number(60.2, "60.2").quiet(),
        Cell::from(""),
    ]);
    table.caption("A click on a heading sorts.");
    page.add(&table);

    page.section("Charts");
    let loss = |k: f64| {
        (0..2000)
            .map(|i| (8.0 * (-(i as f64) / 400.0).exp() + 0.5 + 0.2 * wave(i, k)) as f32)
            .collect::<Vec<_>>()
    };
    page.add(&LineChart {
        title: "loss".into(),
        x: Axis::linear("step"),
        y: Axis::linear("nats a token"),
        series: vec![
            Series::of_values("stage 1", &loss(7.1)),
            Series::of_values("stage 2", &loss(3.3)),
        ],
        smooth: 40,
        at_x: vec![Marker {
            value: 600.0,
            label: "warm-up ends".into(),
        }],
    });
    let bar = |value, error| {
        Some(BarValue {
            value,
            error: Some(error),
            shown: format!("{:.1} % of 40", 100.0 * value),
        })
    };
    page.add(&BarChart {
        title: "right answers by kind".into(),
        labels: vec![
            "receipts".into(),
            "signs".into(),
            "charts with a name that is far too long for its place".into(),
        ],
        series: vec![
            BarSeries {
                name: "before".into(),
                values: vec![bar(0.2, 0.05), bar(0.5, 0.08), None],
            },
            BarSeries {
                name: "after".into(),
                values: vec![bar(0.8, 0.05), bar(0.98, 0.01), bar(0.41, 0.07)],
            },
        ],
        full: Some(1.0),
    });
    let values: Vec<f64> = (0..5000)
        .map(|i| (wave(i, 1.3) + wave(i, 0.7) + wave(i, 2.9)).exp())
        .collect();
    page.add(&Histogram {
        title: "scores".into(),
        x: Axis::log("ratio"),
        unit: "pairs".into(),
        values: values.clone(),
        markers: vec![Marker {
            value: 1.0,
            label: "1".into(),
        }],
        ..Histogram::default()
    });
    let point = |(i, x): (usize, &f64)| Point {
        x: *x,
        y: x.sqrt() + wave(i, 5.1),
        group: i % 3,
        text: format!("pair {i}"),
    };
    page.add(&Scatter {
        title: "two scores".into(),
        x: Axis::log("first"),
        y: Axis::linear("second"),
        groups: vec![
            "kept".into(),
            "below the limit".into(),
            "near-duplicate".into(),
        ],
        points: values.iter().take(900).enumerate().map(point).collect(),
        ..Scatter::default()
    });

    page.section("Cards");
    let mut pictures = Pictures::new(320, 1 << 20);
    let cards: Vec<Card> = (0..9u8)
        .map(|i| Card {
            id: format!("q{i}"),
            picture: pictures.get(&format!("{}.png", i / 2), || {
                Ok(RgbImage::filled(
                    300,
                    120 + 20 * usize::from(i),
                    [25 * i, 90, 140],
                ))
            }),
            picture_name: format!("{}.png", i / 2),
            category: ["sign", "receipt"][usize::from(i % 2)].into(),
            question: "What does it say?".into(),
            gold: vec!["EXIT".into()],
            answers: vec![Answer {
                text: "exit <b>".into(),
                right: Some(i % 3 == 0),
                scores: vec![("anls".into(), f64::from(i) / 9.0)],
                ..Answer::default()
            }],
            remarks: Vec::new(),
        })
        .collect();
    page.add(&Cards {
        cards: &cards,
        pictures: &pictures,
    });
    print!("{}", page.render());
}
