//! Bar, line and pie charts: content, facts and captions. Every drawn value is printed too.

use super::Content;
use crate::config::DocKind;
use crate::document::noun;
use crate::page::{ItemId, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Chart {
    #[allow(dead_code, reason = "part of the content key")]
    kind: DocKind,
    pub(super) title: String,
    pub(super) labels: Vec<String>,
    pub(super) values: Vec<i64>,
}

/// Where the parts of a chart were printed.
pub(super) struct Printed {
    pub(super) title: Option<ItemId>,
    /// Label and value of each point.
    pub(super) points: Vec<(ItemId, ItemId)>,
    /// Description of the looks, for the caption.
    pub(super) looks: String,
}

impl Chart {
    pub(super) fn sample(
        kind: DocKind,
        rng: &mut Rng,
        speaker: &Speaker<'_>,
        space: &Space,
    ) -> Self {
        let few = space.few();
        let most = if few {
            2
        } else {
            (space.w / (space.px[0] * 6.0)) as usize
        }
        .clamp(2, 7);
        let n = if few {
            2
        } else {
            3.min(most) + rng.below(most.saturating_sub(2))
        };
        let labels = match (kind, few) {
            (DocKind::PieChart, _) | (_, true) => speaker.distinct(&words::GOODS, n, rng),
            (DocKind::LineChart, _) => {
                let start = rng.int(1990, 2022);
                let step = rng.int(1, 3);
                (0..n as i64)
                    .map(|i| (start + i * step).to_string())
                    .collect()
            }
            _ => match rng.below(3) {
                0 => speaker.distinct(&words::TOWNS, n, rng),
                1 => speaker.distinct(&words::GOODS, n, rng),
                _ => {
                    // Months in their order.
                    let months = speaker.months();
                    let first = rng.below(months.len() - n + 1);
                    months[first..first + n]
                        .iter()
                        .map(|m| (*m).to_owned())
                        .collect()
                }
            },
        };
        let n = labels.len();
        let values = if kind == DocKind::PieChart {
            shares(n, rng)
        } else {
            distinct(n, speaker, rng)
        };
        let topic = speaker.word(&words::TOPICS, rng);
        let title = match rng.below(3) {
            _ if few => String::new(),
            0 => format!("{topic} {}", rng.int(1999, 2029)),
            1 => format!("{topic} {}", speaker.name(&words::TOWNS, rng)),
            _ => topic,
        };
        Self {
            kind,
            title,
            labels,
            values,
        }
    }

    /// A value as printed.
    pub(super) fn text(&self, i: usize, pie: bool) -> String {
        let value = self.values.get(i).copied().unwrap_or(0);
        if pie {
            format!("{value}%")
        } else {
            value.to_string()
        }
    }
}

/// `n` shares of at least 5 that add up to 100, all different where that is possible.
fn shares(n: usize, rng: &mut Rng) -> Vec<i64> {
    let n = n.max(1);
    for _ in 0..50 {
        let spare = 100 - 5 * n as i64;
        let mut cuts: Vec<i64> = (1..n).map(|_| rng.int(0, spare)).collect();
        cuts.sort_unstable();
        cuts.push(spare);
        let mut last = 0;
        let mut parts: Vec<i64> = Vec::with_capacity(n);
        for cut in cuts {
            parts.push(5 + cut - last);
            last = cut;
        }
        let mut sorted = parts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == n {
            return parts;
        }
    }
    // 5, 6, 7 ... and the rest for the last.
    let mut parts: Vec<i64> = (0..n as i64 - 1).map(|i| 5 + i).collect();
    parts.push(100 - parts.iter().sum::<i64>());
    parts
}

/// `n` different values.
fn distinct(n: usize, speaker: &Speaker<'_>, rng: &mut Rng) -> Vec<i64> {
    let largest = speaker.largest().max(2 * n as i64);
    let scale = if rng.chance(0.5) {
        largest
    } else {
        largest.min(99)
    };
    let mut values: Vec<i64> = Vec::with_capacity(n);
    while values.len() < n {
        let value = rng.int((scale / 12).max(1), scale);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

impl Content for Chart {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h) = (page.w(), page.h());
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let pie = page.kind == DocKind::PieChart;
        let printed = if pie {
            self.draw_pie(page)
        } else {
            self.draw_axes(page, page.kind == DocKind::LineChart)
        };
        if let Some(id) = printed.title {
            page.fact("chart_title", "", &self.title, None, id);
        }
        let field = if pie { "share" } else { "value" };
        for (i, (label, &(label_id, value_id))) in
            self.labels.iter().zip(&printed.points).enumerate()
        {
            page.fact(field, label, &self.text(i, pie), Some(label_id), value_id);
        }
        let by_value = |i: &usize| self.values.get(*i).copied().unwrap_or(0);
        let (low, high) = (
            (0..self.values.len()).min_by_key(by_value),
            (0..self.values.len()).max_by_key(by_value),
        );
        for (field, at) in [("highest", high), ("lowest", low)] {
            let Some(at) = at.filter(|_| !page.space.few()) else {
                continue;
            };
            if let (Some(label), Some(&(label_id, value_id))) =
                (self.labels.get(at), printed.points.get(at))
            {
                page.fact(field, "", label, Some(label_id), value_id);
            }
        }
        let all: Vec<String> = self
            .labels
            .iter()
            .enumerate()
            .map(|(i, l)| format!("{l} with {}", self.text(i, pie)))
            .collect();
        let kind = noun(page.kind);
        if page.space.few() {
            page.say(format!("A {kind}. It shows {}.", all.join(" and ")));
            return;
        }
        let (paper, ink) = (page.scheme.paper.name, page.scheme.ink.name);
        page.say(format!(
            "A {kind} titled \"{}\" on a {paper} background with {ink} text; the title stands {}. {} It shows {}.",
            self.title,
            printed.title.map_or("at the top", |id| page.place(id)),
            printed.looks,
            all.join(", ")
        ));
        if let (Some(high), Some(low)) = (high, low) {
            page.say_more(format!(
                "The largest value belongs to {} and the smallest to {}.",
                self.labels[high], self.labels[low]
            ));
        }
    }
}
