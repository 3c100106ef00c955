//! A self-contained HTML page of answered questions: pictures embedded, no script, no network.

use base64::{Engine, engine::general_purpose::STANDARD};
use llavar_image::RgbImage;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{AnswerRow, answer};

/// A row of the summary table: label, value before, value after (already with units).
pub type SummaryRow = (String, String, String);

/// A picture with everything asked about it.
#[derive(Debug, Clone)]
pub struct PictureRows {
    /// The picture, at the size it is to be shown.
    pub image: RgbImage,
    /// The questions on it.
    pub rows: Vec<AnswerRow>,
}

/// What the page says.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Heading.
    pub title: String,
    /// Paragraphs under it: what was done, on what, and what that does not show.
    pub remarks: Vec<String>,
    /// Header of the table's columns after the first.
    pub columns: (String, String),
    /// The table.
    pub summary: Vec<SummaryRow>,
    /// Loss after each step, for the curve.
    pub losses: Vec<(String, Vec<f32>)>,
    /// The pictures.
    pub pictures: Vec<PictureRows>,
    /// Commands to try next.
    pub next: Vec<String>,
}

impl Page {
    /// The page as HTML. Every text is escaped: answers of a model are untrusted.
    ///
    /// # Errors
    /// When a picture cannot be encoded.
    pub fn render(&self) -> Result<String, llavar_image::ImageError> {
        let cards: Vec<Markup> = self.pictures.iter().map(card).collect::<Result<_, _>>()?;
        let all: Vec<AnswerRow> = self.pictures.iter().flat_map(|p| p.rows.clone()).collect();
        Ok(html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    @for remark in &self.remarks { p.remark { (remark) } }
                    table {
                        thead { tr { th { "" } th { (self.columns.0) } th { (self.columns.1) } } }
                        tbody { @for (label, before, after) in &self.summary {
                            tr { td { (label) } td.n { (before) } td.n { (after) } }
                        } }
                    }
                    @for (name, losses) in &self.losses { (curve(name, losses)) }
                    h2 { "Pictures (" (all.iter().filter(|r| r.correct).count()) " of " (all.len()) " shown questions right)" }
                    div.bars { @for (group, share, n) in answer::by_group(&all) {
                        div { span.label { (group) } span.bar { span style=(format!("width:{:.1}%", share * 100.0)) {} }
                            span { (format!("{:.0} % of {n}", share * 100.0)) } }
                    } }
                    main { @for card in cards { (card) } }
                    @if !self.next.is_empty() {
                        h2 { "Try next" }
                        @for line in &self.next { pre { (line) } }
                    }
                }
            }
        }
        .into_string())
    }
}

fn card(picture: &PictureRows) -> Result<Markup, llavar_image::ImageError> {
    let data = STANDARD.encode(llavar_image::encode_jpeg(&picture.image, 88)?);
    let id = picture.rows.first().map_or("", |row| row.id.as_str());
    Ok(html! {
        article {
            img src=(format!("data:image/jpeg;base64,{data}")) alt=(format!("picture {id}")) width=(picture.image.width) height=(picture.image.height);
            ul { @for row in &picture.rows {
                li class=(if row.correct { "right" } else { "wrong" }) {
                    p.q { (row.question) }
                    p.a { (if row.correct { "\u{2713} " } else { "\u{2717} " }) (row.answer) }
                    p.g { "gold: " (row.gold) }
                }
            } }
        }
    })
}

/// The loss curve as inline SVG, smoothed over a fiftieth of its length.
fn curve(name: &str, losses: &[f32]) -> Markup {
    const W: f32 = 640.0;
    const H: f32 = 140.0;
    let finite: Vec<f32> = losses.iter().copied().filter(|x| x.is_finite()).collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else {
        return html! {};
    };
    let window = (finite.len() / 50).max(1);
    let smooth: Vec<f32> = finite
        .chunks(window)
        .map(|c| c.iter().sum::<f32>() / c.len() as f32)
        .collect();
    let top = smooth.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let points: Vec<String> = smooth
        .iter()
        .enumerate()
        .map(|(i, y)| {
            let x = i as f32 / (smooth.len().max(2) - 1) as f32 * W;
            format!("{x:.1},{:.1}", H - y / top * (H - 8.0))
        })
        .collect();
    html! {
        figure {
            figcaption { (name) ": loss " (format!("{first:.3}")) " \u{2192} " (format!("{last:.3}")) " nats a token over " (losses.len()) " steps" }
            svg viewBox=(format!("0 0 {W} {H}")) width=(W) height=(H) role="img" {
                line x1="0" y1=(H) x2=(W) y2=(H) stroke="#999" {}
                polyline points=(points.join(" ")) fill="none" stroke="#2a6fdb" stroke-width="2" {}
            }
        }
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.remark { max-width: 46rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .35rem .9rem; border-bottom: 1px solid #8884; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
.bars > div { display: grid; grid-template-columns: 10rem 14rem auto; gap: .6rem; align-items: center; }
.bar { background: #8883; height: .7rem; border-radius: .35rem; overflow: hidden; } .bar span { display: block; height: 100%; background: #2a9d5c; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem; margin-top: 1rem; }
article { border: 1px solid #8885; border-radius: .5rem; padding: .8rem; }
article img { max-width: 100%; height: auto; border-radius: .25rem; }
ul { list-style: none; padding: 0; margin: .6rem 0 0; } li { border-left: 4px solid; padding: 0 .6rem; margin: .6rem 0; }
li p { margin: .1rem 0; overflow-wrap: anywhere; } .right { border-color: #2a9d5c; } .wrong { border-color: #c8463c; }
.q { font-weight: 600; } .g { opacity: .7; font-size: .9rem; }
pre { background: #8882; padding: .6rem; border-radius: .3rem; overflow-x: auto; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_escaped_and_nothing_is_fetched() {
        let row = AnswerRow {
            id: "s1".into(),
            image: "a.png".into(),
            group: "sign".into(),
            question: "What does it say?".into(),
            gold: "EXIT".into(),
            answer: "<script>alert(1)</script> EXIT".into(),
            correct: true,
        };
        let page = Page {
            title: "T".into(),
            losses: vec![("sft".into(), vec![3.0, 2.0, f32::NAN, 1.0])],
            pictures: vec![PictureRows {
                image: RgbImage::filled(8, 8, [1, 2, 3]),
                rows: vec![row],
            }],
            ..Page::default()
        };
        let html = page.render().unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        assert!(!html.contains("http://") && !html.contains("https://"));
        assert!(
            html.contains("1 of 1") && html.contains("loss 3.000") && html.contains("polyline")
        );
    }
}
