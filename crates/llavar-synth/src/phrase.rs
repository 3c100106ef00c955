//! Wordings of questions and answers: several for each field. `{v}` is the value, `{s}` the subject
//! (an item, a row), `{k}` the kind of document, `{n}` the field's name, `{q}` the quoted text, `{p}`
//! its place and `{l}` its label.

use crate::rng::Rng;

/// Wordings of one field.
pub(crate) struct Phrases {
    pub(crate) field: &'static str,
    /// How sentences name the field; may contain `{s}`.
    pub(crate) name: &'static str,
    pub(crate) questions: &'static [&'static str],
    pub(crate) answers: &'static [&'static str],
}

const fn phrases(
    field: &'static str,
    name: &'static str,
    questions: &'static [&'static str],
    answers: &'static [&'static str],
) -> Phrases {
    Phrases {
        field,
        name,
        questions,
        answers,
    }
}

/// Wordings that fit every field, used after a field's own.
const COMMON_QUESTIONS: &[&str] = &[
    "Can you tell me {n} from this {k}?",
    "Please read {n} in the image.",
    "According to the {k}, what is {n}?",
];
const COMMON_ANSWERS: &[&str] = &[
    "According to the {k}, {n} is {v}.",
    "As the {k} shows, {n} is {v}.",
];

#[rustfmt::skip]
pub(crate) const PHRASES: &[Phrases] = &[
    phrases("shop", "the name of the shop", &["What is the name of the shop?", "Which shop issued this receipt?", "Where was the purchase made?"], &["The name of the shop is {v}.", "The receipt was issued by {v}.", "The purchase was made at {v}."]),
    phrases("total", "the total amount", &["What is the total?", "How much was paid in total?", "What total amount does the receipt show?"], &["The total is {v}.", "The total amount on the receipt is {v}.", "In total, {v} was paid."]),
    phrases("date", "the date", &["What is the date?", "Which date is printed on the {k}?", "Which date does the {k} give?"], &["The date is {v}.", "The date printed on the {k} is {v}.", "The {k} gives {v} as the date."]),
    phrases("time", "the time", &["What is the time?", "Which time is given?", "What time does the {k} show?"], &["The time is {v}.", "The {k} gives {v} as the time.", "The time given is {v}."]),
    phrases("item_price", "the price of {s}", &["How much is {s}?", "What is the price of {s}?", "How much does {s} cost?"], &["{s} costs {v}.", "The price of {s} is {v}.", "According to the {k}, {s} is {v}."]),
    phrases("payment", "the means of payment", &["How was it paid?", "Which means of payment was used?"], &["It was paid by {v}.", "The means of payment is {v}."]),
    phrases("receipt_number", "the receipt number", &["What is the receipt number?", "Which number does the receipt carry?"], &["The receipt number is {v}.", "The receipt carries the number {v}."]),
    phrases("address", "the address", &["What is the address?", "Which address is given on the {k}?"], &["The address is {v}.", "The {k} gives the address {v}."]),
    phrases("form_title", "the title of the form", &["What kind of form is this?", "What is the title of the form?"], &["The title of the form is {v}.", "This form is headed {v}."]),
    phrases("name", "the name of the person", &["What is the name of the person?", "Who filled in the form?", "Whose name is on the {k}?"], &["The name of the person is {v}.", "The {k} names {v}.", "The person is {v}."]),
    phrases("birth_date", "the date of birth", &["What is the date of birth?", "When was the person born?"], &["The date of birth is {v}.", "The person was born on {v}."]),
    phrases("city", "the city", &["Which city is given?", "What is the city?", "In which city does the person live?"], &["The city is {v}.", "The city given is {v}.", "The person lives in {v}."]),
    phrases("phone", "the phone number", &["What is the phone number?", "Which phone number is given?"], &["The phone number is {v}.", "The {k} gives the phone number {v}."]),
    phrases("occupation", "the occupation", &["What is the occupation?", "What does the person work as?"], &["The occupation is {v}.", "The form gives {v} as the occupation."]),
    phrases("reference", "the reference number", &["What is the reference number?", "Which reference does the {k} carry?"], &["The reference number is {v}.", "The {k} carries the reference {v}."]),
    phrases("event", "the event", &["Which event is announced?", "What is the event?", "What does the poster advertise?"], &["The event is {v}.", "The poster announces {v}.", "The poster advertises {v}."]),
    phrases("venue", "the venue", &["Where does the event take place?", "What is the venue?"], &["The event takes place at {v}.", "The venue is {v}."]),
    phrases("price", "the price", &["What is the price?", "How much is a ticket?"], &["The price is {v}.", "A ticket costs {v}."]),
    phrases("title", "the title", &["What is the title of the book?", "Which title is on the cover?", "What is the book called?"], &["The title of the book is {v}.", "The title on the cover is {v}.", "The book is called {v}."]),
    phrases("author", "the author", &["Who is the author?", "Who wrote this book?", "Which author is named on the cover?"], &["The author is {v}.", "This book was written by {v}.", "The author named on the cover is {v}."]),
    phrases("publisher", "the publisher", &["Who is the publisher?", "Who published the book?"], &["The publisher is {v}.", "The book was published by {v}."]),
    phrases("year", "the year", &["Which year is printed?", "What is the year?"], &["The year is {v}.", "The year printed is {v}."]),
    phrases("chart_title", "the title of the chart", &["What is the title of the chart?", "What does the chart show?"], &["The title of the chart is {v}.", "The chart shows {v}."]),
    phrases("value", "the value for {s}", &["What is the value for {s}?", "How high is {s}?", "Which value does {s} have?"], &["The value for {s} is {v}.", "{s} has the value {v}.", "The chart shows {v} for {s}."]),
    phrases("share", "the share of {s}", &["What share does {s} have?", "How large is the share of {s}?"], &["The share of {s} is {v}.", "{s} has a share of {v}."]),
    phrases("highest", "the label with the highest value", &["Which one is the highest?", "Which label has the largest value?"], &["The highest one is {v}.", "The label with the largest value is {v}."]),
    phrases("lowest", "the label with the lowest value", &["Which one is the lowest?", "Which label has the smallest value?"], &["The lowest one is {v}.", "The label with the smallest value is {v}."]),
    phrases("table_title", "the title of the table", &["What is the title of the table?", "What is the table about?"], &["The title of the table is {v}.", "The table is about {v}."]),
    phrases("cell", "the entry for {s}", &["What is the entry for {s}?", "Which value does the table give for {s}?"], &["The entry for {s} is {v}.", "The table gives {v} for {s}."]),
    phrases("app", "the name of the program", &["What is the name of the program?", "Which program is shown?"], &["The name of the program is {v}.", "The screenshot shows {v}."]),
    phrases("setting", "the setting of {s}", &["What is {s} set to?", "Which value is shown for {s}?"], &["{s} is set to {v}.", "The screen shows {v} for {s}."]),
    phrases("user", "the user's name", &["Which user is signed in?", "What is the name of the user?"], &["The user is {v}.", "The signed-in user is {v}."]),
    phrases("version", "the version", &["Which version is shown?", "What is the version?"], &["The version is {v}.", "The screen shows version {v}."]),
    phrases("destination", "the place on the sign", &["What place does the sign name?", "What does the sign say?", "Where does the sign point to?"], &["The sign says {v}.", "The sign names {v}.", "The sign points to {v}."]),
    phrases("distance", "the distance", &["What is the distance?", "How far is it?", "Which distance does the sign give?"], &["The distance is {v}.", "It is {v} away.", "The sign gives a distance of {v}."]),
    phrases("hours", "the opening hours", &["What are the opening hours?", "When is it open?"], &["The opening hours are {v}.", "It is open {v}."]),
    phrases("addressee", "the name of the addressee", &["To whom is the note written?", "Who should read the note?"], &["The note is written to {v}.", "The note is meant for {v}."]),
    phrases("sender", "the name of the writer", &["Who wrote the note?", "Who signed the note?"], &["The note was written by {v}.", "The note is signed by {v}."]),
    phrases("shopping", "the thing to buy", &["What should be bought?", "Which thing is to be bought?"], &["The note asks to buy {v}.", "The thing to be bought is {v}."]),
    phrases("day", "the day of the meeting", &["On which day is the meeting?", "Which day is given?"], &["The meeting is on {v}.", "The day given is {v}."]),
    // Scans and cut-out words ask as benchmarks do, and have one way of answering each: a model that may choose its
    // first words chooses them before it has looked anything up.
    phrases("company", "the name of the company that issued this receipt", &["what is the name of the company that issued this invoice?", "What is the name of the company?", "Which company issued the receipt?"], &["The company that issued this invoice is {v}."]),
    phrases("shop_address", "the address of the shop", &["where was this invoice issued?", "What is the address of the shop?", "Where was the receipt issued?"], &["This invoice was issued at {v}."]),
    phrases("issue_date", "the date of the receipt", &["when was this invoice issued?", "What is the date of the receipt?"], &["This invoice was issued on {v}."]),
    phrases("receipt_total", "the total amount of the receipt", &["what is the total amount of this invoice?", "What is the total?", "How much was paid in total?"], &["The total amount of this invoice is {v}."]),
    phrases("entry", "the value of \"{s}\"", &["what is \"{s}\" information in the image?", "what is \"{s}\" information in the image?", "What is filled in for \"{s}\"?"], &["{s}: {v}"]),
    phrases("word", "the text", &["what is written in the image?", "What does it say?", "Which word is shown?"], &["{v}"]),
    phrases("line_below", "the line below \"{s}\"", &["What is written below \"{s}\"?", "Which line follows \"{s}\"?"], &["The line below reads {v}.", "It is followed by {v}."]),
    phrases("line_above", "the line above \"{s}\"", &["What is written above \"{s}\"?", "Which line comes before \"{s}\"?"], &["The line above reads {v}.", "It comes after {v}."]),
    phrases("line_with", "the line that begins with \"{s}\"", &["Read the line that begins with \"{s}\".", "What does the line with \"{s}\" say?"], &["The line reads {v}.", "It says {v}."]),
    phrases("first_line", "the first line", &["What is the first line of the page?", "How does the text begin?"], &["The first line reads {v}.", "It begins with {v}."]),
    phrases("last_line", "the last line", &["What is the last line of the page?", "How does the text end?"], &["The last line reads {v}.", "It ends with {v}."]),
];

/// What a question adds when the bare answer is wanted.
pub(crate) const SHORT: &[&str] = &[
    " Answer this question using the text in the image directly.",
    " Give the answer only.",
    "",
];

/// Names of all fields that documents may ask for, for [`crate::SynthConfig::fields`].
pub fn fields() -> Vec<&'static str> {
    PHRASES.iter().map(|p| p.field).collect()
}

const SELF_QUESTIONS: &[&str] = &[
    "What in the image supports this answer?",
    "Which text in the image shows {n}?",
    "Where in the image can this be read?",
    "How can you tell from the image?",
    "What evidence does the {k} give for {n}?",
];
const SELF_ANSWERS_LABEL: &[&str] = &[
    "The text \"{q}\" beside the label \"{l}\" {p} shows it.",
    "{P}, the label \"{l}\" is followed by \"{q}\", which gives {n}.",
    "The {k} prints \"{q}\" for \"{l}\" {p}, so this is {n}.",
];
const SELF_ANSWERS: &[&str] = &[
    "The text \"{q}\" {p} shows it.",
    "{P}, the {k} prints \"{q}\", which gives {n}.",
    "The words \"{q}\" can be read {p}, and they give {n}.",
];

/// What a wording is filled with.
pub(crate) struct Slots<'s> {
    pub(crate) field: &'s str,
    pub(crate) value: &'s str,
    pub(crate) subject: &'s str,
    pub(crate) kind: &'s str,
    pub(crate) quote: &'s str,
    pub(crate) label: Option<&'s str>,
    pub(crate) place: &'s str,
}

/// The four turns of one fact: extractive question and answer, self-explain question and answer.
pub(crate) fn duo(slots: &Slots<'_>, limit: u32, rng: &mut Rng) -> [String; 4] {
    let own = PHRASES.iter().find(|p| p.field == slots.field);
    debug_assert!(own.is_some(), "field {} has no wording", slots.field);
    let name = own.map_or("this", |p| p.name).replace("{s}", slots.subject);
    let mut choose = |first: &[&'static str], then: &[&'static str]| {
        let all: Vec<&str> = first.iter().chain(then).copied().collect();
        let n = if limit == 0 {
            all.len()
        } else {
            all.len().min(limit as usize)
        };
        fill(all.get(rng.below(n)).copied().unwrap_or(""), slots, &name)
    };
    let (questions, answers) = own.map_or((&[][..], &[][..]), |p| (p.questions, p.answers));
    // A field with one answer always gets it.
    let common = if answers.len() == 1 {
        &[]
    } else {
        COMMON_ANSWERS
    };
    let explain = if slots.label.is_some() {
        SELF_ANSWERS_LABEL
    } else {
        SELF_ANSWERS
    };
    [
        choose(questions, COMMON_QUESTIONS),
        choose(answers, common),
        choose(SELF_QUESTIONS, &[]),
        choose(explain, &[]),
    ]
}

/// Fills a wording in one pass, so that a value with braces is never filled again.
fn fill(template: &str, slots: &Slots<'_>, name: &str) -> String {
    let mut text = String::with_capacity(template.len() + 48);
    let mut rest = template;
    // What stands on the page, not a sentence.
    let told = template.ends_with('}');
    while let Some(open) = rest.find('{') {
        text.push_str(&rest[..open]);
        let Some(length) = rest[open..].find('}') else {
            break;
        };
        match &rest[open + 1..open + length] {
            "v" => text.push_str(slots.value),
            "s" if told => text.push_str(slots.subject.trim_end_matches(':')),
            "s" => text.push_str(slots.subject),
            "k" => text.push_str(slots.kind),
            "n" => text.push_str(name),
            "q" => text.push_str(slots.quote),
            "l" => text.push_str(slots.label.unwrap_or("")),
            "p" => text.push_str(slots.place),
            "P" => text.push_str(&crate::words::capital(slots.place)),
            _ => {}
        }
        rest = &rest[open + length + 1..];
    }
    text.push_str(rest);
    if told {
        return text;
    }
    // A value that ends a sentence may end with a full stop itself.
    crate::words::capital(&text.replace("..", "."))
}

/// Words for the place of a point in a picture, given as shares of its width and height.
pub(crate) fn place(x: f32, y: f32) -> &'static str {
    let column = if x < 0.36 {
        0
    } else if x < 0.64 {
        1
    } else {
        2
    };
    let row = if y < 0.34 {
        0
    } else if y < 0.66 {
        1
    } else {
        2
    };
    const PLACES: [[&str; 3]; 3] = [
        ["near the top left", "near the top", "near the top right"],
        ["on the left side", "in the center", "on the right side"],
        [
            "near the bottom left",
            "near the bottom",
            "near the bottom right",
        ],
    ];
    PLACES[row][column]
}

/// Instructions of the stage-1 captions.
pub(crate) const DESCRIBE: &[&str] = &[
    "Describe the image in detail.",
    "Please give a detailed description of this picture.",
    "What does this image show? Describe it with all its text.",
    "Write a caption that covers the visual and the textual content of the image.",
    "Describe this document, its layout and its text.",
    "Provide a thorough description of what can be seen and read in the image.",
];

/// Instructions of the transcriptions.
pub(crate) const READ: &[&str] = &[
    "Read all the text in the image.",
    "Transcribe every word of this image.",
    "What text is written in the image? Give all of it.",
    "Please write down the complete text of this picture.",
];
