//! What people decided, and how far they agree.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{PictureResult, Verdict};

/// Pictures after review.
#[derive(Debug)]
pub struct Reviewed {
    /// With turned-down duos gone and edited ones replaced.
    pub pictures: Vec<PictureResult>,
    /// By the id of an edited duo, that of what it was.
    pub original: HashMap<String, String>,
    /// Edits that hold `<image>` and were passed over: with them the picture's record could not be read.
    pub unusable_edits: usize,
}

/// The last word of every reviewer on every duo: by duo, then by reviewer.
fn last_words(verdicts: &[Verdict]) -> HashMap<&str, BTreeMap<&str, &Verdict>> {
    let mut words: HashMap<&str, BTreeMap<&str, &Verdict>> = HashMap::new();
    for verdict in verdicts {
        let of_duo = words.entry(&verdict.duo).or_default();
        match verdict.verdict.as_str() {
            "undo" => of_duo.remove(verdict.reviewer.as_str()),
            _ => of_duo.insert(&verdict.reviewer, verdict),
        };
    }
    words
}

/// Applies decisions: a duo goes where at least as many people reject as accept it; of several edits the
/// latest usable one counts. What nobody looked at stays.
pub fn apply(pictures: &[PictureResult], verdicts: &[Verdict]) -> Reviewed {
    let words = last_words(verdicts);
    let mut original = HashMap::new();
    let mut unusable_edits = 0;
    let mut pictures = pictures.to_vec();
    for picture in &mut pictures {
        let hash = picture.hash.clone();
        picture.duos = std::mem::take(&mut picture.duos)
            .into_iter()
            .filter_map(|duo| {
                let id = duo.id(&hash);
                let Some(said) = words.get(id.as_str()).filter(|said| !said.is_empty()) else {
                    return Some(duo);
                };
                let rejects = said.values().filter(|v| v.verdict == "reject").count();
                if rejects * 2 >= said.len() {
                    return None;
                }
                let edits = said.values().filter(|v| v.verdict == "edit");
                let edits = edits.filter_map(|v| Some((v.time, v.edited.as_ref()?)));
                let (unusable, edits): (Vec<_>, Vec<_>) =
                    edits.partition(|(_, edited)| edited.holds_image_tag());
                unusable_edits += unusable.len();
                let latest = edits.into_iter().max_by_key(|(time, _)| *time);
                let Some(edited) = latest.map(|(_, edited)| edited.clone()) else {
                    return Some(duo);
                };
                original.insert(edited.id(&hash), id);
                Some(edited)
            })
            .collect();
    }
    Reviewed {
        pictures,
        original,
        unusable_edits,
    }
}

/// How far two reviewers agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// One.
    pub first: String,
    /// The other.
    pub second: String,
    /// Duos that both decided about.
    pub duos: usize,
    /// Share on which they say the same of accept, edit and reject.
    pub observed: f64,
    /// Cohen's kappa of keeping (accept, edit) against rejecting; absent where both always say the same one
    /// thing, so that chance explains everything.
    pub kappa: Option<f64>,
}

/// The agreement of every two reviewers with duos in common.
///
/// # Source
/// Cohen, "A coefficient of agreement for nominal scales", 1960: (p_o - p_e) / (1 - p_e).
pub fn agreement(verdicts: &[Verdict]) -> Vec<Agreement> {
    let mut pairs: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    for said in last_words(verdicts).values() {
        let said: Vec<_> = said.iter().collect();
        for (i, (first, a)) in said.iter().enumerate() {
            for (second, b) in &said[i + 1..] {
                let both = (a.verdict.as_str(), b.verdict.as_str());
                pairs.entry((first, second)).or_default().push(both);
            }
        }
    }
    let of_pair = |((first, second), said): ((&str, &str), Vec<(&str, &str)>)| {
        let n = said.len() as f64;
        let same = said.iter().filter(|(a, b)| a == b).count() as f64;
        let keeps = |verdict: &str| verdict != "reject";
        let agreed = said.iter().filter(|(a, b)| keeps(a) == keeps(b)).count() as f64 / n;
        let a = said.iter().filter(|(a, _)| keeps(a)).count() as f64 / n;
        let b = said.iter().filter(|(_, b)| keeps(b)).count() as f64 / n;
        let chance = a * b + (1.0 - a) * (1.0 - b);
        Agreement {
            first: first.to_owned(),
            second: second.to_owned(),
            duos: said.len(),
            observed: same / n,
            kappa: (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance)),
        }
    };
    pairs.into_iter().map(of_pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Duo, State};

    fn verdict(time: u64, duo: &str, reviewer: &str, verdict: &str) -> Verdict {
        Verdict {
            time,
            duo: duo.into(),
            reviewer: reviewer.into(),
            verdict: verdict.into(),
            edited: None,
            note: String::new(),
        }
    }

    #[test]
    fn kappa_of_a_known_table() {
        // Cohen's example form: 20 both keep, 15 both reject, 5 and 10 differ. p_o 0.7, p_e 0.5, kappa 0.4.
        let mut verdicts = Vec::new();
        for i in 0..50 {
            let (a, b) = match i {
                0..20 => ("accept", "edit"),
                20..25 => ("accept", "reject"),
                25..35 => ("reject", "accept"),
                _ => ("reject", "reject"),
            };
            verdicts.push(verdict(1, &i.to_string(), "ann", a));
            verdicts.push(verdict(2, &i.to_string(), "bob", b));
        }
        // What was taken back does not count, nor what was said before.
        verdicts.push(verdict(1, "x", "ann", "accept"));
        verdicts.push(verdict(1, "x", "bob", "accept"));
        verdicts.push(verdict(2, "x", "bob", "undo"));
        let found = agreement(&verdicts);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].duos, found[0].observed), (50, 0.3));
        assert!((found[0].kappa.unwrap() - 0.4).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn decisions_are_applied() {
        let duo = |n: u32| Duo {
            extractive_question: format!("Q{n}?"),
            ..Duo::default()
        };
        let mut picture = PictureResult::new("a.png", State::Done);
        picture.hash = "h".into();
        picture.duos = (0..4).map(duo).collect();
        let id = |n: u32| duo(n).id("h");
        let mut edit = verdict(3, &id(1), "ann", "edit");
        edit.edited = Some(duo(9));
        let verdicts = [
            verdict(1, &id(0), "ann", "reject"),
            edit,
            verdict(1, &id(2), "ann", "reject"),
            verdict(2, &id(2), "bob", "accept"),
            verdict(3, &id(2), "cy", "accept"),
        ];
        let reviewed = apply(&[picture], &verdicts);
        assert_eq!(reviewed.pictures[0].duos, [duo(9), duo(2), duo(3)]);
        assert_eq!(reviewed.original[&id(9)], id(1));
        assert_eq!(reviewed.unusable_edits, 0);
    }

    #[test]
    fn an_edit_that_breaks_the_record_is_passed_over_and_counted() {
        let duo = |answer: &str| Duo {
            extractive_answer: answer.into(),
            ..Duo::default()
        };
        let mut picture = PictureResult::new("a.png", State::Done);
        picture.hash = "h".into();
        picture.duos = vec![duo("A"), duo("B")];
        let edit = |time: u64, of: &str, reviewer: &str, answer: &str| {
            let mut edit = verdict(time, &duo(of).id("h"), reviewer, "edit");
            edit.edited = Some(duo(answer));
            edit
        };
        let tag = "The tag \"<image>\" is printed there.";
        let verdicts = [
            edit(1, "A", "ann", tag),
            edit(1, "B", "ann", "C"),
            edit(2, "B", "bob", tag),
        ];
        let reviewed = apply(&[picture], &verdicts);
        assert_eq!(reviewed.pictures[0].duos, [duo("A"), duo("C")]);
        assert_eq!(reviewed.unusable_edits, 2);
    }
}
