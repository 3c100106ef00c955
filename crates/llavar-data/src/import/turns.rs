//! The turns that are made of a page.

use super::page::{Fact, Page, neighbours, transcript};
use crate::record::{Role, Sample, SampleId, Turn};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// Which turns are made of a page. The answers of all forms but [`Form::Duo`] are the bare labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// One conversation a picture: the published questions.
    #[default]
    Short,
    /// Conversations of duos as LLaVAR-2 has them: a question with a whole-sentence answer, then a
    /// question for the evidence with an answer that quotes the text and says where it stands. A fact without a
    /// place in the picture is left out. A picture of many facts has several conversations.
    Duo,
    /// Every fact twice as a sample of its own: as published, and in other words where there are any.
    Ask,
    /// Conversations of several facts in any wording and order, with questions for what stands beside or below
    /// a line; a fact is in one of them.
    Talk,
    /// All text of a picture in reading order.
    Read,
    /// [`Form::Ask`], [`Form::Talk`], [`Form::Duo`] and [`Form::Read`] together; of samples with the same turns the
    /// first.
    Mixed,
}

impl Form {
    /// All forms with their names on a command line.
    pub const ALL: [(&'static str, Self); 6] = [
        ("short", Self::Short),
        ("duos", Self::Duo),
        ("ask", Self::Ask),
        ("talk", Self::Talk),
        ("read", Self::Read),
        ("mixed", Self::Mixed),
    ];

    /// Whether lines of text are of use.
    pub fn needs_lines(self) -> bool {
        !matches!(self, Self::Short | Self::Ask)
    }
}

const READ: [&str; 6] = [
    "Read all the text in the image.",
    "Transcribe every word of this image.",
    "What text is written in the image? Give all of it.",
    "Please write down the complete text of this picture.",
    "Write out everything that is printed here.",
    "What does it say in the image?",
];
const RIGHT: [&str; 4] = [
    "What is written to the right of \"{}\"?",
    "What stands next to \"{}\"?",
    "Which text follows \"{}\" on the same line?",
    "What does it say beside \"{}\"?",
];
const BELOW: [&str; 4] = [
    "What is written below \"{}\"?",
    "Which text stands under \"{}\"?",
    "What is the line below \"{}\"?",
    "What comes right under \"{}\"?",
];
const ABOVE: [&str; 3] = [
    "What is written above \"{}\"?",
    "Which text stands over \"{}\"?",
    "What is the line above \"{}\"?",
];
/// Duos in one conversation: more would be longer than small models read.
const DUOS: usize = 6;
/// Facts in one conversation of [`Form::Talk`], and questions for lines.
const TALK_FACTS: usize = 5;
const TALK_LINES: usize = 3;

/// The samples of page number `at` of a set.
pub(super) fn samples(page: &Page, form: Form, at: usize, seed: u64) -> Vec<Sample> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(at as u64);
    let mut made = Vec::new();
    let mut written = HashSet::new();
    let mut push = |id: String, turns: Vec<String>| {
        // The forms of Mixed meet where a page has little to ask; training would weigh that twice.
        let again = form == Form::Mixed && !written.insert(turns.clone());
        if !turns.is_empty() && !again {
            made.push(sample(id, &page.image, turns));
        }
    };
    let name = &page.name;
    if form == Form::Short {
        let turns = page.facts.iter();
        let turns = turns.flat_map(|fact| [fact.question.clone(), fact.answer.clone()]);
        push(name.clone(), turns.collect());
    }
    if matches!(form, Form::Ask | Form::Mixed) {
        for (nth, fact) in page.facts.iter().enumerate() {
            let turns = vec![fact.question.clone(), fact.answer.clone()];
            push(format!("{name}/ask/{nth}"), turns);
            if let Some(wording) = fact.wordings.choose(&mut rng) {
                let turns = vec![wording.clone(), fact.answer.clone()];
                push(format!("{name}/ask/{nth}b"), turns);
            }
        }
    }
    if matches!(form, Form::Talk | Form::Mixed) {
        for (nth, turns) in talks(page, &mut rng).into_iter().enumerate() {
            push(format!("{name}/talk/{nth}"), turns);
        }
    }
    if matches!(form, Form::Duo | Form::Mixed) {
        let duos: Vec<[String; 4]> = page.facts.iter().filter_map(duo).collect();
        for (nth, duos) in duos.chunks(DUOS).enumerate() {
            let id = match (form, nth) {
                (Form::Duo, 0) => name.clone(),
                _ => format!("{name}/duos/{nth}"),
            };
            push(id, duos.concat());
        }
    }
    if matches!(form, Form::Read | Form::Mixed) && !page.lines.is_empty() {
        let question = READ[rng.random_range(0..READ.len())].to_owned();
        push(
            format!("{name}/read"),
            vec![question, transcript(&page.lines)],
        );
    }
    made
}

fn duo(fact: &Fact) -> Option<[String; 4]> {
    let [why, evidence] = fact.evidence.clone()?;
    Some([fact.question.clone(), fact.sentence.clone(), why, evidence])
}

/// Facts and lines in any order: at least one conversation where there is anything to ask.
fn talks(page: &Page, rng: &mut ChaCha8Rng) -> Vec<Vec<String>> {
    let mut facts: Vec<&Fact> = page.facts.iter().collect();
    facts.shuffle(rng);
    let mut lines: Vec<usize> = (0..page.lines.len()).collect();
    lines.shuffle(rng);
    let mut asked = lines
        .into_iter()
        .filter_map(|at| line_question(page, at, rng))
        .collect::<Vec<_>>()
        .into_iter();
    let conversations = facts.len().div_ceil(TALK_FACTS).max(1);
    let mut talks = Vec::with_capacity(conversations);
    for nth in 0..conversations {
        let facts = facts.iter().skip(nth * TALK_FACTS).take(TALK_FACTS);
        let mut pairs: Vec<[String; 2]> = Vec::new();
        for fact in facts {
            let own = rng.random::<f64>() < 0.3;
            let question = fact.wordings.choose(rng).filter(|_| !own);
            pairs.push([
                question.unwrap_or(&fact.question).clone(),
                fact.answer.clone(),
            ]);
        }
        pairs.extend(asked.by_ref().take(TALK_LINES));
        pairs.shuffle(rng);
        talks.push(pairs.into_iter().flatten().collect());
    }
    talks
}

/// A question for what stands beside, below or above a line that can be named: its text stands there once.
fn line_question(page: &Page, at: usize, rng: &mut ChaCha8Rng) -> Option<[String; 2]> {
    let named = |at: usize| {
        let text = &page.lines[at].text;
        let long = text.chars().filter(|c| c.is_alphanumeric()).count() >= 3;
        let once = page.lines.iter().filter(|line| line.text == *text).count() == 1;
        (long && once && !text.contains('"')).then_some(text)
    };
    let [right, below] = neighbours(&page.lines, at);
    let text = |at: usize| &page.lines[at].text;
    let ask = |wordings: &[&str], name: &str, rng: &mut ChaCha8Rng| {
        wordings[rng.random_range(0..wordings.len())].replace("{}", name)
    };
    match (right, below, rng.random_range(0..3)) {
        (Some(right), None, _) | (Some(right), Some(_), 0) => {
            Some([ask(&RIGHT, named(at)?, rng), text(right).clone()])
        }
        (_, Some(below), 1) => Some([ask(&ABOVE, named(below)?, rng), text(at).clone()]),
        (_, Some(below), _) => Some([ask(&BELOW, named(at)?, rng), text(below).clone()]),
        (None, None, _) => None,
    }
}

fn sample(id: String, image: &str, turns: Vec<String>) -> Sample {
    let turn = |(i, value): (usize, String)| Turn {
        from: if i % 2 == 0 { Role::Human } else { Role::Gpt },
        value: match i {
            0 => format!("{}\n{value}", crate::IMAGE_TAG),
            _ => value,
        },
    };
    Sample {
        id: SampleId::Text(id),
        images: vec![image.to_string()],
        conversations: turns.into_iter().enumerate().map(turn).collect(),
        extra: serde_json::Map::new(),
        dropped_turns: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::TextLine;
    use super::*;

    fn page() -> Page {
        let fact = |n: usize| Fact {
            question: format!("what is {n}?"),
            wordings: vec![format!("Tell {n}."), format!("{n}?")],
            answer: format!("answer {n}"),
            sentence: format!("It is answer {n}."),
            evidence: (n > 0).then(|| ["Why?".to_owned(), "Because.".to_owned()]),
        };
        let line = |at: usize| TextLine {
            bounds: [0.0, 30.0 * at as f64, 90.0, 30.0 * at as f64 + 20.0],
            text: format!("line {at}"),
        };
        Page {
            name: "p".into(),
            image: "img/p.jpg".into(),
            facts: (0..3).map(fact).collect(),
            lines: (0..5).map(line).collect(),
        }
    }

    fn turns(form: Form, seed: u64) -> Vec<Vec<String>> {
        let values = |s: &Sample| s.conversations.iter().map(|t| t.value.clone()).collect();
        samples(&page(), form, 0, seed).iter().map(values).collect()
    }

    #[test]
    fn single_questions_and_conversations() {
        let short = turns(Form::Short, 0);
        assert_eq!(short.len(), 1);
        assert_eq!(short[0][0], "<image>\nwhat is 0?");
        assert_eq!(short[0][5], "answer 2");
        let ask = turns(Form::Ask, 0);
        assert_eq!(ask.len(), 6);
        assert!(ask.iter().all(|turns| turns.len() == 2));
        assert_eq!(ask[2], ["<image>\nwhat is 1?", "answer 1"]);
        let talk = turns(Form::Talk, 0);
        assert_eq!((talk.len(), talk[0].len()), (1, 12));
        assert_eq!(turns(Form::Duo, 0)[0].len(), 8);
        let read = turns(Form::Read, 0);
        assert_eq!(read[0][1], "line 0\nline 1\nline 2\nline 3\nline 4");
        assert_eq!(turns(Form::Mixed, 0).len(), 6 + 1 + 1 + 1);
    }

    #[test]
    fn pages_of_many_facts_have_several_conversations() {
        let mut page = page();
        page.facts = page.facts.iter().cycle().take(24).cloned().collect();
        let duos = samples(&page, Form::Duo, 0, 0);
        let lengths: Vec<usize> = duos.iter().map(|s| s.conversations.len()).collect();
        // Two facts of three have a place.
        assert_eq!(lengths, [24, 24, 16]);
        assert_eq!(duos[0].id.to_string(), "p");
        let talks = samples(&page, Form::Talk, 0, 0);
        assert_eq!(talks.len(), 5);
        let facts = talks.iter().flat_map(|s| &s.conversations);
        let facts = facts.filter(|t| t.value.starts_with("answer")).count();
        assert_eq!(facts, 24, "every fact once");
    }

    #[test]
    fn ids_are_unique_and_seeds_decide() {
        let mixed = samples(&page(), Form::Mixed, 0, 1);
        let ids: std::collections::BTreeSet<_> = mixed.iter().map(|s| s.id.to_string()).collect();
        assert_eq!(ids.len(), mixed.len());
        assert_eq!(turns(Form::Talk, 5), turns(Form::Talk, 5));
        assert!((0..9).any(|seed| turns(Form::Talk, seed) != turns(Form::Talk, 9)));
    }

    #[test]
    fn mixed_writes_nothing_twice() {
        let mut page = page();
        page.lines.clear();
        page.facts.truncate(1);
        page.facts[0].wordings.clear();
        let ids = |page: &Page, form| -> Vec<String> {
            let made = samples(page, form, 0, 0);
            made.iter().map(|s| s.id.to_string()).collect()
        };
        assert_eq!(ids(&page, Form::Mixed), ["p/ask/0"]);
        assert_eq!(ids(&page, Form::Talk), ["p/talk/0"]);
        // A label that is listed twice, and a wording that is the published question.
        page.facts = vec![page.facts[0].clone(); 2];
        page.facts[0].wordings = vec![page.facts[0].question.clone()];
        assert_eq!(ids(&page, Form::Mixed), ["p/ask/0", "p/talk/0"]);
        assert_eq!(ids(&page, Form::Ask), ["p/ask/0", "p/ask/0b", "p/ask/1"]);
        // One conversation of five facts and one of the sixth.
        let fact = |n: usize| Fact {
            question: format!("{n}?"),
            ..page.facts[1].clone()
        };
        page.facts = (0..6).map(fact).collect();
        let mixed = samples(&page, Form::Mixed, 0, 0);
        let turns = |s: &Sample| -> Vec<String> {
            let values = s.conversations.iter().map(|t| t.value.clone());
            values.collect()
        };
        let different: HashSet<_> = mixed.iter().map(turns).collect();
        assert_eq!((mixed.len(), different.len()), (7, 7));
    }

    #[test]
    fn lines_are_told_by_their_neighbours() {
        let page = page();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for at in 0..4 {
            let [question, answer] = line_question(&page, at, &mut rng).unwrap();
            let below = format!("line {}", at + 1);
            match ABOVE.iter().any(|w| question == w.replace("{}", &below)) {
                true => assert_eq!(answer, format!("line {at}"), "{question}"),
                false => assert_eq!(answer, below, "{question}"),
            }
        }
        assert_eq!(line_question(&page, 4, &mut rng), None);
    }
}
