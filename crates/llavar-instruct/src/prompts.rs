//! Prompts are files: Jinja templates with a version, ours embedded, all of them replaceable.
//!
//! A template calls `system()`, `user()` and `assistant()` where a message begins. The first comment names
//! its version (`{#- version: 1 ... -#}`); the journal and the data card keep version and hash.

use std::path::{Path, PathBuf};

use llavar_client::{Message, Role};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, value::Serde};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{InstructError, duo::hex};

const CAPTION: &str = include_str!("../prompts/caption.jinja");
const DUOS: &str = include_str!("../prompts/duos.jinja");
const EXAMPLES: &str = include_str!("../prompts/examples.json");

/// What begins a message in rendered text. Texts of pictures hold no control characters.
const MARK: char = '\u{1}';

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// `caption` or `duos`.
    pub name: String,
    /// What its first comment says.
    pub version: String,
    /// The first twelve hexadecimal digits of the SHA-256 of template and examples.
    pub hash: String,
}

/// The prompts of a run.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    examples: serde_json::Value,
    /// What is used.
    pub used: Vec<Prompt>,
}

impl Prompts {
    /// Names of the files that a folder of prompts may have, with ours.
    pub const FILES: [(&str, &str); 3] = [
        ("caption.jinja", CAPTION),
        ("duos.jinja", DUOS),
        ("examples.json", EXAMPLES),
    ];

    /// Those of `folder`, and ours where it has none.
    ///
    /// # Errors
    /// [`InstructError::Prompt`] for a file that is no template, has no version, or whose examples are not a
    /// list of `{"input", "output"}`.
    pub fn load(folder: Option<&Path>) -> Result<Self, InstructError> {
        let read = |name: &str, ours: &str| -> Result<(PathBuf, String), InstructError> {
            let path = folder.map(|folder| folder.join(name));
            match path.filter(|path| path.exists()) {
                Some(path) => {
                    let text = std::fs::read_to_string(&path).map_err(InstructError::io(&path))?;
                    Ok((path, text))
                }
                None => Ok((PathBuf::from(name), ours.to_owned())),
            }
        };
        if let Some(folder) = folder
            && !folder.is_dir()
        {
            return Err(InstructError::io(folder)(
                std::io::ErrorKind::NotADirectory.into(),
            ));
        }
        let (path, text) = read(Self::FILES[2].0, EXAMPLES)?;
        let examples =
            examples_of(&text).map_err(|reason| InstructError::Prompt { path, reason })?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (function, role) in [("system", 's'), ("user", 'u'), ("assistant", 'a')] {
            environment.add_function(function, move || format!("{MARK}{role}"));
        }
        let mut used = Vec::new();
        for (file, ours) in &Self::FILES[..2] {
            let (path, text) = read(file, ours)?;
            let name = file.trim_end_matches(".jinja");
            let bad = |reason: String| InstructError::Prompt {
                path: path.clone(),
                reason,
            };
            let version = version_of(&text).ok_or_else(|| {
                bad("its first comment names no version, as {#- version: 1 -#}".into())
            })?;
            let mut hash = Sha256::new();
            hash.update(&text);
            hash.update(examples[name].to_string());
            environment
                .add_template_owned(name.to_owned(), text.clone())
                .map_err(|error| bad(told(&error)))?;
            used.push(Prompt {
                name: name.to_owned(),
                version,
                hash: hex(&hash.finalize()[..6]),
            });
        }
        let prompts = Self {
            environment,
            examples,
            used,
        };
        // A wrong name in a template is found before the first picture.
        for prompt in &prompts.used {
            let known = json!({
                "name": "a.png", "width": 1, "height": 1, "caption": "c", "layout": "l", "sees": false,
                "language": "English", "least_words": 1, "most_words": 2, "rejected": ["r"],
                "description": "d", "number": 2, "kept": [{"extractive_question": "q"}],
                "open": [{"text": "t", "place": "top left"}],
            });
            prompts.render(&prompt.name, known)?;
        }
        Ok(prompts)
    }

    /// The messages of a prompt.
    ///
    /// # Errors
    /// [`InstructError::Prompt`], also where it makes no message or text stands before the first.
    pub fn render(
        &self,
        name: &str,
        mut known: serde_json::Value,
    ) -> Result<Vec<Message>, InstructError> {
        let bad = |reason: String| InstructError::Prompt {
            path: PathBuf::from(format!("{name}.jinja")),
            reason,
        };
        clean(&mut known);
        known["examples"] = self.examples[name].clone();
        let template = self
            .environment
            .get_template(name)
            .map_err(|error| bad(told(&error)))?;
        let text = template
            .render(Serde(&known))
            .map_err(|error| bad(told(&error)))?;
        let mut parts = text.split(MARK);
        if parts.next().is_some_and(|before| !before.trim().is_empty()) {
            return Err(bad("text stands before the first system() or user()".into()));
        }
        let messages: Vec<Message> = parts
            .map(|part| {
                let role = match part.chars().next() {
                    Some('s') => Role::System,
                    Some('a') => Role::Assistant,
                    _ => Role::User,
                };
                Message::new(role, part.get(1..).unwrap_or_default().trim())
            })
            .collect();
        match messages.last() {
            Some(last) if last.role == Role::User => Ok(messages),
            _ => Err(bad("the last message must be the user's".into())),
        }
    }
}

/// Control characters of a picture's text would be read as marks, and models read them as noise.
fn clean(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.retain(|c| !c.is_control() || c == '\n'),
        serde_json::Value::Array(list) => list.iter_mut().for_each(clean),
        serde_json::Value::Object(map) => map.values_mut().for_each(clean),
        _ => {}
    }
}

fn examples_of(text: &str) -> Result<serde_json::Value, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut checked = json!({});
    for name in ["caption", "duos"] {
        let list = value.get(name).cloned().unwrap_or(json!([]));
        let whole = list.as_array().is_some_and(|list| {
            list.iter()
                .all(|one| one["input"].is_string() && one["output"].is_string())
        });
        if !whole {
            return Err(format!("`{name}` is no list of {{\"input\", \"output\"}}"));
        }
        checked[name] = list;
    }
    Ok(checked)
}

fn version_of(text: &str) -> Option<String> {
    let comment = text.trim_start().strip_prefix("{#")?.split("#}").next()?;
    let (_, version) = comment.split_once("version:")?;
    let version = version.split_whitespace().next()?;
    Some(version.trim_end_matches('-').to_owned()).filter(|version| !version.is_empty())
}

fn told(error: &Error) -> String {
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => format!("{line}a name that is not known here"),
        (kind, Some(detail)) => format!("{line}{kind}: {detail}"),
        (kind, None) => format!("{line}{kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_client::Content;

    fn texts(messages: &[Message]) -> Vec<(Role, String)> {
        let text = |message: &Message| match &message.content[0] {
            Content::Text(text) => text.clone(),
            Content::ImageUrl(url) => url.clone(),
        };
        messages.iter().map(|m| (m.role, text(m))).collect()
    }

    #[test]
    fn ours_have_versions_and_examples() {
        let prompts = Prompts::load(None).unwrap();
        assert_eq!(prompts.used.len(), 2);
        assert!(prompts.used.iter().all(|prompt| prompt.version == "2"));
        let known = json!({"name": "a", "width": 1, "height": 1, "caption": null, "sees": false,
            "layout": "SALE \u{1}u now", "language": null, "least_words": 1, "most_words": 9, "rejected": [],
            "description": "A sign.", "number": 1, "kept": [], "open": []});
        let messages = texts(&prompts.render("duos", known).unwrap());
        let roles: Vec<Role> = messages.iter().map(|m| m.0).collect();
        assert_eq!(
            roles,
            [
                Role::System,
                Role::User,
                Role::Assistant,
                Role::User,
                Role::Assistant,
                Role::User
            ]
        );
        let last = &messages[5].1;
        assert!(
            last.contains("SALE u now") && last.ends_with("Write 1 item now."),
            "{last}"
        );
        assert!(!last.contains("asked already") && !messages[0].1.contains("Write in"));
    }

    #[test]
    fn a_folder_replaces_ours_and_faults_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let load = || Prompts::load(Some(dir.path()));
        write(
            "duos.jinja",
            "{# version: mine-2 #}{{ user() }}{{ layout }}",
        );
        let prompts = load().unwrap();
        assert_eq!(prompts.used[1].version, "mine-2");
        assert_ne!(
            prompts.used[1].hash,
            Prompts::load(None).unwrap().used[1].hash
        );
        for (text, words) in [
            ("{{ user() }}x", "version"),
            ("{# version: 1 #}{{ user() }}{{ layuot }}", "not known"),
            ("{# version: 1 #}\n{{ user( }}", "line 2"),
            ("{# version: 1 #}hello", "before the first"),
            (
                "{# version: 1 #}{{ user() }}a{{ assistant() }}b",
                "last message",
            ),
        ] {
            write("duos.jinja", text);
            let error = load().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        write("duos.jinja", "{# version: 1 #}{{ user() }}x");
        write("examples.json", r#"{"duos": [{"input": "x"}]}"#);
        assert!(load().unwrap_err().to_string().contains("examples.json"));
    }
}
