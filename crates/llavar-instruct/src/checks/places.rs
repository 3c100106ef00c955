//! Where in the picture something is said to stand.

use super::{
    Broken, Evidence, Reason, broken,
    evidence::{PageLine, Spot},
    quotes::quoted_spans,
};

/// A claim such as "at the top left of the image".
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    words: String,
    down: Option<Down>,
    across: Option<Across>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    Top,
    Bottom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Across {
    Left,
    Right,
}

/// What a place can be of for it to be one in the whole picture; "the top of the table" is none.
const WHOLE: &str = "image picture photo page poster receipt form chart graph document sign screen screenshot invoice \
    letter cover flyer label card bill ticket map diagram report notice sheet memo slide menu text";

const DETAILS: &str = "hand side corner part half edge third most area section portion end";

/// Every place in the whole picture that a text names in English agrees with a line that it quotes: in the
/// half of the picture, or of the text in it, that is named. Spans that are in no line say nothing.
pub(super) fn agree(text: &str, evidence: &Evidence, least: f64) -> Result<(), Broken> {
    let spans = quoted_spans(text);
    let lines: Vec<&PageLine> = spans
        .iter()
        .flat_map(|span| evidence.lines_of(span, least))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    for claim in claims(text, &spans) {
        let stands = |line: &&PageLine| claim.fits(line.in_picture) || claim.fits(line.in_text);
        if !lines.iter().any(stands) {
            return broken(
                Reason::WrongPlace,
                format!(
                    "\"{}\" does not stand {} of the image: it stands {}",
                    spans.first().unwrap_or(&""),
                    claim.words,
                    lines[0].in_picture.name()
                ),
            );
        }
    }
    Ok(())
}

impl Spot {
    /// In thirds: `at the top left`, `in the middle`.
    fn name(self) -> String {
        let third = |at: f64| ((at * 3.0).max(0.0) as usize).min(2);
        let down = ["top", "middle", "bottom"][third(self.down)];
        let across = ["left", "", "right"][third((self.left + self.right) / 2.0)];
        match (down, across) {
            ("middle", "") => "in the middle".to_owned(),
            ("middle", across) => format!("at the {across}"),
            (down, "") => format!("at the {down}"),
            (down, across) => format!("at the {down} {across}"),
        }
    }
}

impl Claim {
    fn fits(&self, spot: Spot) -> bool {
        let down = match self.down {
            None => true,
            Some(Down::Top) => spot.down <= 0.5,
            Some(Down::Bottom) => spot.down >= 0.5,
        };
        let across = match self.across {
            None => true,
            Some(Across::Left) => spot.left <= 0.5,
            Some(Across::Right) => spot.right >= 0.5,
        };
        down && across
    }
}

/// The claims of a text outside its quotes.
fn claims(text: &str, spans: &[&str]) -> Vec<Claim> {
    let mut own = text.to_lowercase();
    for span in spans {
        own = own.replacen(&span.to_lowercase(), " ", 1);
    }
    // A word with whether a clause ends after it.
    let words: Vec<(&str, bool)> = own
        .split(|c: char| c.is_whitespace() || c == '-')
        .map(|word| {
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
            (bare, word.ends_with(['.', ',', ';', ':', '!', ')']))
        })
        .filter(|(bare, ends)| !bare.is_empty() || *ends)
        .collect();
    let mut claims = Vec::new();
    for (i, (word, ends)) in words.iter().enumerate() {
        if !ends && ["at", "near", "in", "on", "towards", "toward", "by"].contains(word) {
            claims.extend(claim(&words[i..]));
        }
        claims.extend(line_claim(&words[i..]));
    }
    claims
}

/// The claim of "the first line of the page": its half, as what counts as a line is seen in many ways.
fn line_claim(words: &[(&str, bool)]) -> Option<Claim> {
    let [(which, false), ("line", false), ("of", _), rest @ ..] = words else {
        return None;
    };
    let down = match *which {
        "first" | "top" => Down::Top,
        "last" | "bottom" => Down::Bottom,
        _ => return None,
    };
    let what = rest.iter().find(|(word, _)| *word != "the")?.0;
    let is_whole = WHOLE.split(' ').any(|whole| whole == what);
    is_whole.then(|| Claim {
        words: format!("in the {which} line"),
        down: Some(down),
        across: None,
    })
}

/// The claim that begins with a preposition.
fn claim(words: &[(&str, bool)]) -> Option<Claim> {
    let mut claim = Claim {
        words: String::new(),
        down: None,
        across: None,
    };
    let mut said = vec![words.first()?.0];
    let mut at = 1;
    let mut closed = false;
    while let Some((word, ends)) = words.get(at) {
        match *word {
            "top" | "upper" => claim.down = Some(Down::Top),
            "bottom" | "lower" => claim.down = Some(Down::Bottom),
            "left" => claim.across = Some(Across::Left),
            "right" => claim.across = Some(Across::Right),
            "the" | "very" | "far" | "" => {}
            word if DETAILS.split(' ').any(|detail| detail == word) => {}
            _ => break,
        }
        said.push(word);
        at += 1;
        if *ends {
            closed = true;
            break;
        }
    }
    // "The top of the table" and "the bottom line" are places in a part of the picture.
    let of_whole = match (words.get(at), words.get(at + 2)) {
        (None, _) => true,
        (Some(("of", _)), Some((what, _))) => WHOLE.split(' ').any(|whole| whole == *what),
        _ => closed,
    };
    claim.words = said.join(" ");
    (of_whole && (claim.down.is_some() || claim.across.is_some())).then_some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_ocr::Line;

    #[test]
    fn places_are_held_against_the_lines_that_are_quoted() {
        let lines = [
            Line::in_box([10.0, 10.0, 40.0, 20.0], "ACME STORE", 0.9),
            Line::in_box([10.0, 80.0, 30.0, 90.0], "TOTAL", 0.9),
            Line::in_box([70.0, 80.0, 95.0, 90.0], "9.90", 0.9),
            Line::in_box([45.0, 49.0, 55.0, 52.0], "Table 5", 0.9),
        ];
        let evidence = Evidence::of_page(&lines, (100, 100), None);
        let check = |text: &str| agree(text, &evidence, 0.8).map_err(|broken| broken.reason);
        for right in [
            "The text \"ACME STORE\" stands at the top left of the image.",
            "At the top, \"Acme Store\" is written.",
            "\"TOTAL\" at the left and \"9.90\" on the right side, both at the bottom of the receipt.",
            "\"ACME STORE\" stands at the bottom of the logo.",
            "\"ACME STORE\" is in the bottom line of the header.",
            "The first line of the receipt, \"ACME STORE\", names it.",
            "\"TOTAL\" stands in the last line of text.",
            "\"ACME STORE\" is the last line of the address.",
            "\"Table 5\" stands near the bottom.",
            "\"Table 5\" stands in the middle of the image.",
            "The sign \"at the bottom of the image\" hangs at the bottom.",
        ] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for wrong in [
            "The text \"ACME STORE\" stands at the bottom of the poster.",
            "The text \"ACME STORE\" stands in the upper right corner.",
            "In the top-left corner of the image is \"9.90\".",
            "The line \"TOTAL\" near the very top of the page shows it.",
            "\"ACME STORE\" stands on the right.",
            "The last line of the notice, \"ACME STORE\", shows it.",
            "\"9.90\" is the first line of text.",
        ] {
            assert_eq!(check(wrong), Err(Reason::WrongPlace), "{wrong}");
        }
    }
}
