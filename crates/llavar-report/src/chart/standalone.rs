//! A chart as a file of its own.

use maud::html;

use super::{colour, line::LineChart};
use crate::text::Text;

/// What the page's style says of charts, with its light colours, on white.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1d2430}.axis text{fill:#667085}\
.title{font-size:15px;font-weight:600}.grid{stroke:#d9dee6}.base{stroke:#667085}\
.line path{fill:none;stroke:currentColor;stroke-linejoin:round;stroke-linecap:round}\
.curve{stroke-width:2}.faint{stroke-width:1;opacity:.35}.hover{fill:transparent}\
.marker line{stroke:#667085;stroke-dasharray:5 4}.key{fill:currentColor}\
.c0{color:#2f6fde}.c1{color:#e07b22}.c2{color:#219a6f}.c3{color:#b4429c}\
.c4{color:#8a6d1b}.c5{color:#5f55c9}.c6{color:#d3455b}.c7{color:#4b8aa6}";

/// Height of title and of a line of the legend.
const ROW: f64 = 20.0;

impl LineChart {
    /// The chart as an SVG file, with title and legend.
    pub fn to_svg(&self) -> String {
        let (width, height) = super::frame::SIZE;
        let head = ROW * (self.series.len() as f64 + 1.0) + 8.0;
        let total = height + head;
        html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width} {total}"))
                width=(width) height=(total) {
                style { (maud::PreEscaped(STYLE)) }
                rect width="100%" height="100%" fill="#fff" {}
                text.title x="16" y=(ROW) { (Text(&self.title)) }
                @for (at, series) in self.series.iter().enumerate() {
                    @let y = ROW * (at as f64 + 2.0);
                    g class=(colour(at)) {
                        rect.key x="16" y=(y - 10.0) width="12" height="12" rx="2" {}
                    }
                    text x="34" y=(y) { (Text(&series.name)) }
                }
                svg y=(head) width=(width) height=(height) { (self.drawn(&self.y)) }
            }
        }
        .into_string()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Axis, LineChart, Series};

    #[test]
    fn a_file_of_its_own_names_its_curves_and_escapes_them() {
        let chart = LineChart {
            title: "loss".into(),
            x: Axis::linear("step"),
            y: Axis::log("nats a token"),
            series: vec![
                Series::of_values("a<b", &[3.0, 2.0]),
                Series::of_values("c", &[2.5, 1.0]),
            ],
            ..LineChart::default()
        };
        let svg = chart.to_svg();
        assert!(svg.starts_with("<svg xmlns="), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        assert_eq!(svg.matches("class=\"curve\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
