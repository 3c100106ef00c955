//! The page around everything.

use std::hash::{DefaultHasher, Hasher};

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use crate::text::Text;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// A page being made: heading, sections, and the parts in them in the order in which they are added.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    sections: Vec<String>,
    body: String,
}

impl Page {
    /// An empty page.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            sections: Vec::new(),
            body: String::new(),
        }
    }

    /// Begins a section; from the third on the page has a list of its sections on top.
    pub fn section(&mut self, title: impl Into<String>) {
        let title = title.into();
        let id = self.sections.len();
        self.add(&html! { h2 id=(format!("section-{id}")) { (Text(&title)) } });
        self.sections.push(title);
    }

    /// Adds a part: a table, a chart, cards.
    pub fn add(&mut self, part: &impl Render) {
        part.render_to(&mut self.body);
        self.body.push('\n');
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl AsRef<str>) {
        self.add(&html! { p { (Text(text.as_ref())) } });
    }

    /// Adds what a reader must not overlook, as a marked list; nothing for an empty one.
    pub fn notes<T: AsRef<str>>(&mut self, notes: impl IntoIterator<Item = T>) {
        let notes: Vec<T> = notes.into_iter().collect();
        if !notes.is_empty() {
            self.add(&html! {
                ul.notes { @for note in &notes { li { (Text(note.as_ref())) } } }
            });
        }
    }

    /// Adds lines in a fixed-width block: commands to try.
    pub fn commands<T: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = T>) {
        for line in lines {
            self.add(&html! { pre { (Text(line.as_ref())) } });
        }
    }

    /// Adds names with values: the settings of a run.
    pub fn facts<K: AsRef<str>, V: AsRef<str>>(&mut self, facts: impl IntoIterator<Item = (K, V)>) {
        self.add(&html! {
            dl.facts { @for (name, value) in facts {
                div { dt { (Text(name.as_ref())) } dd { (Text(value.as_ref())) } }
            } }
        });
    }

    /// The file. The same parts give the same bytes.
    pub fn render(&self) -> String {
        let nonce = self.nonce();
        let policy = format!(
            "default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
             base-uri 'none'; form-action 'none'"
        );
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (Text(&self.title)) }
                    style nonce=(nonce) { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (Text(&self.title)) }
                        @if self.sections.len() > 2 { (self.contents()) }
                    }
                    (PreEscaped(&self.body))
                    script nonce=(nonce) { (PreEscaped(SCRIPT)) }
                }
            }
        }
        .into_string()
    }

    fn contents(&self) -> Markup {
        html! {
            nav { @for (id, title) in self.sections.iter().enumerate() {
                a href=(format!("#section-{id}")) { (Text(title)) }
            } }
        }
    }

    /// What the page's own style and script carry and nothing else can: it depends on every text of
    /// the page, so no text can contain it.
    fn nonce(&self) -> String {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(self.title.as_bytes());
            hasher.write(self.body.as_bytes());
            hasher.finish()
        };
        format!("{:016x}{:016x}", half(0), half(1))
    }
}
