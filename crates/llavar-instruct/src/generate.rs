//! One picture: caption, duos, checks, and asking again with the reasons.

use llavar_client::{ClientError, ErrorClass, JsonSchema};
use llavar_ocr::Line;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Answer, CallError, Caller, Duo, InstructError, Picture, Prompts, Rejection,
    call::Question,
    checks::{Broken, Evidence, Reason, Rules, SURE, quoted_spans},
    parse::{complete, parse_caption, parse_duos},
    template,
};

/// Lines that are named in a prompt as open.
const OPEN_LINES: usize = 10;

/// What is made of each picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Duos wanted of a picture.
    pub duos: usize,
    /// Requests of a step for a picture, the first included.
    pub attempts: u32,
    /// Characters of the page layout that go into a prompt; longer pages are cut at a line.
    pub layout_chars: usize,
    /// The checks.
    pub rules: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            duos: 4,
            attempts: 3,
            layout_chars: 6000,
            rules: Rules::default(),
        }
    }
}

/// What became of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It has been gone through to the end.
    Done,
    /// It cannot be used.
    Unusable {
        /// Why.
        reason: String,
    },
    /// The server gave no answer; it is tried again the next time.
    Failed {
        /// Class of the error.
        class: String,
        /// Why.
        reason: String,
    },
    /// Not reached: the run was stopped, or the journal has no answer.
    Pending,
}

/// What was made of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureResult {
    /// Path below the picture folder.
    pub name: String,
    /// SHA-256 of the file; empty where it could not be read.
    pub hash: String,
    /// px.
    pub width: u32,
    /// px.
    pub height: u32,
    /// What OCR found.
    pub lines: Vec<Line>,
    /// The person's caption.
    pub human_caption: Option<String>,
    /// The detail-enriched caption.
    pub caption: Option<String>,
    /// What was kept.
    pub duos: Vec<Duo>,
    /// What was not.
    pub rejected: Vec<Rejection>,
    /// Duos that were proposed.
    pub proposed: usize,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
}

impl PictureResult {
    /// Nothing yet.
    pub(crate) fn new(name: &str, state: State) -> Self {
        Self {
            name: name.to_owned(),
            hash: String::new(),
            width: 0,
            height: 0,
            lines: Vec::new(),
            human_caption: None,
            caption: None,
            duos: Vec::new(),
            rejected: Vec::new(),
            proposed: 0,
            state,
        }
    }

    pub(crate) fn of(picture: &Picture) -> Self {
        let mut result = Self::new(&picture.name, State::Done);
        result.hash = picture.hash.clone();
        result.width = picture.width;
        result.height = picture.height;
        result.lines = picture.lines.to_vec();
        result.human_caption = picture.caption.clone();
        result
    }
}

/// What stops the whole run.
#[derive(Debug)]
pub(crate) enum Halt {
    Budget,
    Cancelled,
    Error(InstructError),
}

/// Who writes.
#[derive(Debug)]
pub(crate) enum Writer<'a> {
    /// A model.
    Model(&'a Caller<'a>, &'a Prompts),
    /// The page alone.
    Template,
}

/// Goes through one picture.
pub(crate) fn picture(
    picture: &Picture,
    writer: &Writer<'_>,
    settings: &Settings,
) -> Result<PictureResult, Halt> {
    let mut result = PictureResult::of(picture);
    match writer {
        Writer::Template => {
            template::write(picture, settings, &mut result);
            Ok(result)
        }
        Writer::Model(caller, prompts) => {
            let sees = caller.sampling.send_images;
            if picture.caption.is_none() && picture.lines.is_empty() && !sees {
                result.state = State::Unusable {
                    reason: "no caption, no text found, and the picture is not sent".into(),
                };
                return Ok(result);
            }
            let mut asked = Asked {
                picture,
                caller,
                prompts,
                settings,
                layout: cut(&picture.layout, settings.layout_chars),
            };
            let done = asked
                .caption(&mut result)
                .and_then(|()| asked.duos(&mut result));
            match done {
                Ok(()) => Ok(result),
                Err(error) => {
                    result.state = state_of(error)?;
                    Ok(result)
                }
            }
        }
    }
}

fn state_of(error: CallError) -> Result<State, Halt> {
    Ok(match error {
        CallError::NotInJournal => State::Pending,
        CallError::Budget => return Err(Halt::Budget),
        CallError::TooLong { message } => State::Failed {
            class: ErrorClass::ContextLength.as_str().to_owned(),
            reason: message,
        },
        CallError::Journal(error) => return Err(Halt::Error(error)),
        CallError::Client(ClientError::Cancelled) => return Err(Halt::Cancelled),
        CallError::Client(error) if error.is_fatal() => return Err(Halt::Error(error.into())),
        CallError::Client(error) => State::Failed {
            class: error.class().as_str().to_owned(),
            reason: error.to_string(),
        },
    })
}

struct Asked<'a> {
    picture: &'a Picture,
    caller: &'a Caller<'a>,
    prompts: &'a Prompts,
    settings: &'a Settings,
    layout: &'a str,
}

impl Asked<'_> {
    fn known(&self) -> Value {
        let (least, most) = self.settings.rules.caption_words;
        json!({
            "name": self.picture.name,
            "width": self.picture.width,
            "height": self.picture.height,
            "caption": self.picture.caption,
            "layout": self.layout,
            "sees": self.caller.sampling.send_images,
            "language": self.settings.rules.language.name(),
            "least_words": least.max(30),
            "most_words": most.min(120),
        })
    }

    /// What texts are held against: OCR and human caption. Where there is neither, the model saw the
    /// picture, and its own caption is what duos must agree with.
    fn evidence(&self, caption: Option<&str>) -> Evidence {
        let picture = self.picture;
        let told = picture.caption.as_deref();
        match picture.lines.is_empty() && told.is_none() {
            true => Evidence::new(caption),
            false => Evidence::of_page(&picture.lines, (picture.width, picture.height), told),
        }
    }

    fn caption(&mut self, result: &mut PictureResult) -> Result<(), CallError> {
        let evidence = self.evidence(None);
        for attempt in 1..=self.settings.attempts {
            let mut known = self.known();
            known["rejected"] = reasons(&result.rejected, "caption", attempt);
            let answer = self.ask("caption", attempt, known, caption_schema())?;
            let text = parse_caption(&answer.text);
            // Without anything to hold it against, quotes are the model's own sight.
            let evidence = match evidence.is_empty() {
                true => Evidence::new([text.as_str()]),
                false => evidence.clone(),
            };
            match self.settings.rules.caption(&text, &evidence) {
                Ok(()) => {
                    result.caption = Some(text);
                    return Ok(());
                }
                Err(broken) => {
                    // JSON that is not closed reads as markup, but the answer was too long.
                    let half = matches!(broken.reason, Reason::Markup | Reason::Sentence);
                    let broken = match half && cut_off(&answer) {
                        true => Broken {
                            reason: Reason::Sentence,
                            detail: "the answer was cut off before the caption was whole".into(),
                        },
                        false => broken,
                    };
                    result
                        .rejected
                        .push(rejection("caption", attempt, broken, text));
                }
            }
        }
        Ok(())
    }

    fn duos(&mut self, result: &mut PictureResult) -> Result<(), CallError> {
        let evidence = self.evidence(result.caption.as_deref());
        let description = result.caption.clone().or(self.picture.caption.clone());
        for attempt in 1..=self.settings.attempts {
            let left = self.settings.duos.saturating_sub(result.duos.len());
            if left == 0 {
                break;
            }
            let mut known = self.known();
            known["description"] = json!(description);
            known["number"] = json!(left);
            known["kept"] = json!(result.duos);
            known["open"] = match attempt {
                1 => json!([]),
                _ => self.open_lines(&result.duos),
            };
            known["rejected"] = reasons(&result.rejected, "duos", attempt);
            let answer = self.ask("duos", attempt, known, duos_schema())?;
            let found = parse_duos(&answer.text);
            if found.is_empty() {
                let detail = match cut_off(&answer) {
                    true => "the answer was cut off before its first item was whole",
                    false => "the answer is no JSON of the asked form",
                };
                let broken = Broken {
                    reason: Reason::Schema,
                    detail: detail.into(),
                };
                let text = answer.text.chars().take(400).collect();
                result
                    .rejected
                    .push(rejection("duos", attempt, broken, text));
                continue;
            }
            // More than were asked for are welcome up to what is wanted.
            for raw in found {
                result.proposed += 1;
                let text = json!(raw).to_string();
                let checked = complete(raw)
                    .map_err(|missing| Broken {
                        reason: Reason::MissingField,
                        detail: format!("missing: {}", missing.join(", ")),
                    })
                    .and_then(|duo| {
                        let rules = &self.settings.rules;
                        rules.duo(&duo, &result.duos, &evidence).map(|()| duo)
                    });
                match checked {
                    Ok(duo) if result.duos.len() < self.settings.duos => result.duos.push(duo),
                    Ok(_) => {}
                    Err(broken) => result
                        .rejected
                        .push(rejection("duos", attempt, broken, text)),
                }
            }
        }
        Ok(())
    }

    /// Lines that no duo quotes yet, with their places, spread over the page: models that are only told that
    /// they repeat themselves do so again.
    fn open_lines(&self, kept: &[Duo]) -> Value {
        let quoted: Vec<&str> = kept
            .iter()
            .flat_map(|duo| quoted_spans(&duo.self_explain_answer))
            .collect();
        let is_open = |line: &&Line| {
            let text = line.text.trim();
            line.score >= SURE
                && text.chars().filter(|c| c.is_alphanumeric()).count() >= 3
                && !quoted
                    .iter()
                    .any(|span| text.contains(span) || span.contains(text))
        };
        let open: Vec<&Line> = self.picture.lines.iter().filter(is_open).collect();
        let step = open.len().div_ceil(OPEN_LINES).max(1);
        let told = |line: &&Line| json!({"text": line.text, "place": self.picture.place(line)});
        open.iter().step_by(step).map(told).collect()
    }

    /// Asks; a page that is too long for the model is halved twice before it is given up.
    fn ask(
        &mut self,
        step: &'static str,
        attempt: u32,
        mut known: Value,
        schema: JsonSchema,
    ) -> Result<Answer, CallError> {
        for halvings in 0.. {
            known["layout"] = json!(self.layout);
            let can_be_shorter = halvings < 2 && self.layout.len() > 400;
            let messages = self
                .prompts
                .render(step, known.clone())
                .map_err(CallError::Journal)?;
            let question = Question {
                step,
                attempt,
                messages,
                schema: schema.clone(),
                picture: self.picture,
                can_be_shorter,
            };
            match self.caller.ask(question) {
                Err(error) if can_be_shorter && error.is_too_long() => {
                    self.layout = cut(self.layout, self.layout.chars().count() / 2);
                }
                other => return other,
            }
        }
        Err(CallError::NotInJournal)
    }
}

/// Whether the server stopped at the most tokens that were allowed.
fn cut_off(answer: &Answer) -> bool {
    answer.finish_reason.as_deref() == Some("length")
}

/// The first so many characters, to the end of a line.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    match text.char_indices().nth(most) {
        None => text,
        Some((at, _)) => {
            let head = &text[..at];
            head.rfind('\n').map_or(head, |end| &head[..end])
        }
    }
}

pub(crate) fn rejection(step: &str, attempt: u32, broken: Broken, text: String) -> Rejection {
    Rejection {
        step: step.to_owned(),
        attempt,
        reason: broken.reason,
        detail: broken.detail,
        text,
    }
}

/// What the model is told about its last answer: at most five sentences.
fn reasons(rejected: &[Rejection], step: &str, attempt: u32) -> Value {
    let last = rejected
        .iter()
        .filter(|one| one.step == step && one.attempt + 1 == attempt);
    let mut told: Vec<&str> = last.map(|one| one.detail.as_str()).collect();
    told.dedup();
    told.truncate(5);
    json!(told)
}

pub(crate) fn caption_schema() -> JsonSchema {
    JsonSchema {
        name: "caption".into(),
        schema: json!({
            "type": "object",
            "properties": {"caption": {"type": "string"}},
            "required": ["caption"],
            "additionalProperties": false,
        }),
    }
}

pub(crate) fn duos_schema() -> JsonSchema {
    let text = json!({"type": "string"});
    let fields: serde_json::Map<String, Value> = Duo::FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), text.clone()))
        .collect();
    JsonSchema {
        name: "duos".into(),
        schema: json!({
            "type": "object",
            "properties": {"duos": {"type": "array", "items": {
                "type": "object",
                "properties": fields,
                "required": Duo::FIELDS,
                "additionalProperties": false,
            }}},
            "required": ["duos"],
            "additionalProperties": false,
        }),
    }
}
