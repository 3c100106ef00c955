//! What is kept, and why the rest is not.
//!
//! Every rule gives a [`Reason`] and a sentence that says what exactly; the sentence goes into the next
//! prompt. A proposal is turned down by the first rule that it breaks, so counts add up.

mod evidence;
mod facts;
mod language;
mod novelty;
mod numbers;
mod places;
mod quotes;
mod sentences;

pub use evidence::Evidence;
pub(crate) use evidence::SURE;
pub use language::Language;
pub use quotes::quoted_spans;

use serde::{Deserialize, Serialize};

use crate::Duo;

/// Why something was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No JSON of the asked form could be made out.
    Schema,
    /// A field is missing or empty.
    MissingField,
    /// Too short or too long.
    Length,
    /// No whole sentence, or a question without a question mark.
    Sentence,
    /// Brackets, placeholders or markup are left in it.
    Markup,
    /// The same words again and again.
    Repetitive,
    /// Another language than asked for.
    Language,
    /// It speaks of the caption, the OCR or the model.
    MetaWords,
    /// A quoted span is neither in the OCR nor in the caption.
    QuoteNotFound,
    /// The explanation quotes nothing.
    NoQuote,
    /// A caption tells nothing of the text in the picture.
    NoText,
    /// The answer names no fact that is in the OCR or the caption.
    NoFact,
    /// A number is neither in the OCR nor in the caption.
    InventedNumber,
    /// What the explanation quotes does not hold what the answer says.
    Unsupported,
    /// What the explanation quotes stands elsewhere in the picture than it says.
    WrongPlace,
    /// The question says what it asks for.
    AnswersItself,
    /// The same question or fact as one that is kept.
    Duplicate,
}

impl Reason {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::MissingField => "missing_field",
            Self::Length => "length",
            Self::Sentence => "sentence",
            Self::Markup => "markup",
            Self::Repetitive => "repetitive",
            Self::Language => "language",
            Self::MetaWords => "meta_words",
            Self::QuoteNotFound => "quote_not_found",
            Self::NoQuote => "no_quote",
            Self::NoText => "no_text",
            Self::NoFact => "no_fact",
            Self::InventedNumber => "invented_number",
            Self::Unsupported => "unsupported",
            Self::WrongPlace => "wrong_place",
            Self::AnswersItself => "answers_itself",
            Self::Duplicate => "duplicate",
        }
    }
}

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub reason: Reason,
    /// What exactly.
    pub detail: String,
}

pub(crate) fn broken(reason: Reason, detail: impl Into<String>) -> Result<(), Broken> {
    Err(Broken {
        reason,
        detail: detail.into(),
    })
}

/// The limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Words of a caption.
    pub caption_words: (usize, usize),
    /// From how many words on the page of which OCR is sure a caption must tell some of them; 0: never.
    pub caption_text_from: usize,
    /// Words of a question.
    pub question_words: (usize, usize),
    /// Words of an answer.
    pub answer_words: (usize, usize),
    /// How like a quoted span must be to its best place in OCR or caption, 0 to 1:
    /// 1 - Levenshtein distance / length, case and punctuation aside. Numbers must be equal.
    pub grounding: f64,
    /// From which likeness on two questions or answers are the same, 0 to 1.
    pub duplicate: f64,
    /// The language that texts must be in; of quoted spans it is not asked.
    pub language: Language,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            caption_words: (12, 400),
            caption_text_from: 3,
            question_words: (3, 60),
            answer_words: (3, 120),
            grounding: 0.8,
            duplicate: 0.9,
            language: Language::English,
        }
    }
}

impl Rules {
    /// Whether a caption is kept.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn caption(&self, text: &str, evidence: &Evidence) -> Result<(), Broken> {
        sentences::length("the caption", text, self.caption_words)?;
        sentences::clean(text)?;
        sentences::whole("the caption", text)?;
        self.language.check(text)?;
        sentences::verb("the caption", text, self.language)?;
        sentences::no_meta_words(text, evidence)?;
        self.grounded(text, evidence)?;
        numbers::known(text, evidence, numbers::Counts::Allowed)?;
        facts::tells_text(text, evidence, self.caption_text_from)
    }

    /// Whether a duo is kept beside those that are kept already.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn duo(&self, duo: &Duo, kept: &[Duo], evidence: &Evidence) -> Result<(), Broken> {
        let named = Duo::FIELDS.iter().zip(duo.texts());
        for (i, (field, text)) in named.enumerate() {
            let name = field.replace('_', " ");
            let words = [self.question_words, self.answer_words][i % 2];
            sentences::length(&name, text, words)?;
            sentences::clean(text)?;
            match i % 2 {
                0 => sentences::question(&name, text)?,
                _ => sentences::whole(&name, text)?,
            }
            sentences::no_meta_words(text, evidence)?;
        }
        // Short texts alone say little about their language.
        self.language.check(&duo.texts().join(" "))?;
        sentences::verb(
            "the extractive answer",
            &duo.extractive_answer,
            self.language,
        )?;
        sentences::verb(
            "the self explain answer",
            &duo.self_explain_answer,
            self.language,
        )?;
        duo.texts()
            .iter()
            .try_for_each(|text| self.grounded(text, evidence))?;
        facts::names_a_fact(duo, evidence)?;
        for (i, text) in duo.texts().into_iter().enumerate() {
            // Only what is asked for must be printed: "the 2 lines above" is a count.
            let counts = match i {
                1 => numbers::Counts::Refused,
                _ => numbers::Counts::Allowed,
            };
            numbers::known(text, evidence, counts)?;
        }
        self.is_new(duo, kept, evidence)?;
        facts::quotes_support(duo, evidence, self.grounding)?;
        places::agree(&duo.self_explain_answer, evidence, self.grounding)
    }

    /// Whether a duo says other things than those that are kept.
    ///
    /// # Errors
    /// [`Reason::Duplicate`].
    pub fn is_new(&self, duo: &Duo, kept: &[Duo], evidence: &Evidence) -> Result<(), Broken> {
        novelty::is_new(duo, kept, evidence, self.duplicate)
    }

    /// Every quoted span is in the evidence.
    fn grounded(&self, text: &str, evidence: &Evidence) -> Result<(), Broken> {
        for span in quoted_spans(text) {
            if !evidence.holds(span, self.grounding) {
                return broken(
                    Reason::QuoteNotFound,
                    format!("\"{span}\" is not written in the image"),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence::new([
            "ACME STORE",
            "Date: 12/03/2018",
            "TOTAL  9.90",
            "Thank you! Visit our OCR booth",
            "A receipt of a small shop, crumpled, on a wooden table.",
        ])
    }

    fn duo() -> Duo {
        Duo::from_texts([
            "What is the total amount of the receipt?".into(),
            "The total amount is 9.90.".into(),
            "Which text in the image shows the total amount?".into(),
            "The line \"TOTAL 9.90\" near the bottom shows it.".into(),
        ])
    }

    fn reason(change: impl FnOnce(&mut Duo)) -> Option<Reason> {
        let mut duo = duo();
        change(&mut duo);
        let kept = [Duo {
            extractive_question: "On which date was it printed?".into(),
            extractive_answer: "It was printed on 12/03/2018.".into(),
            ..Duo::default()
        }];
        Rules::default()
            .duo(&duo, &kept, &evidence())
            .err()
            .map(|broken| broken.reason)
    }

    #[test]
    fn a_good_duo_is_kept_and_each_fault_has_its_reason() {
        use Reason as R;
        assert_eq!(reason(|_| ()), None);
        let ea = |text: &'static str| reason(move |d| d.extractive_answer = text.into());
        let eq = |text: &'static str| reason(move |d| d.extractive_question = text.into());
        let sa = |text: &'static str| reason(move |d| d.self_explain_answer = text.into());
        assert_eq!(ea("It is"), Some(R::Length));
        assert_eq!(ea("total amount 9.90"), Some(R::Sentence));
        assert_eq!(ea("The total amount is 9.90"), Some(R::Sentence));
        assert_eq!(eq("Tell me the total amount."), Some(R::Sentence));
        assert_eq!(ea("The total amount is [amount]."), Some(R::Markup));
        assert_eq!(
            ea("The total is the total is the total is the total is 9.90."),
            Some(R::Repetitive)
        );
        assert_eq!(
            ea("According to the caption, it is 9.90."),
            Some(R::MetaWords)
        );
        assert_eq!(
            eq("What does the OCR text say of the total?"),
            None,
            "OCR stands in the picture"
        );
        assert_eq!(ea("The total amount is \"8.90\"."), Some(R::QuoteNotFound));
        assert_eq!(
            sa("The line \"SUBTOTAL OF ALL\" shows it."),
            Some(R::QuoteNotFound)
        );
        assert_eq!(sa("The line near the bottom shows it."), Some(R::NoQuote));
        assert_eq!(ea("The total amount is unknown here."), Some(R::NoFact));
        assert_eq!(
            eq("Is the total amount of it 9.90?"),
            Some(R::AnswersItself)
        );
        assert_eq!(ea("It was printed on 12/03/2018."), Some(R::Duplicate));
        assert_eq!(
            ea("The total amount is not written in the image."),
            Some(R::NoFact)
        );
        assert_eq!(
            ea("The total amount of 2019 is 9.90."),
            Some(R::InventedNumber)
        );
        assert_eq!(
            sa("The line \"ACME STORE\" near the bottom shows it."),
            Some(R::Unsupported)
        );
        assert_eq!(
            reason(|d| {
                d.extractive_question = "Wie hoch ist der Betrag auf der Quittung?".into();
                d.extractive_answer = "Der Betrag auf der Quittung ist 9.90.".into();
                d.self_explain_question = "Wo steht der Betrag in dem Bild?".into();
            }),
            Some(R::Language)
        );
    }

    #[test]
    fn captions() {
        let rules = Rules::default();
        let good = "The image shows a crumpled receipt of \"Acme Store\" on a wooden table, with a total of \"9.90\".";
        assert_eq!(rules.caption(good, &evidence()), Ok(()));
        let fault = |text: &str| rules.caption(text, &evidence()).unwrap_err().reason;
        assert_eq!(fault("A receipt."), Reason::Length);
        assert_eq!(fault(&good.replace("9.90", "19.90")), Reason::QuoteNotFound);
        assert_eq!(
            fault(&good.replace("The image shows", "As an AI, I see")),
            Reason::MetaWords
        );
        assert_eq!(fault(good.trim_end_matches('.')), Reason::Sentence);
    }
}
