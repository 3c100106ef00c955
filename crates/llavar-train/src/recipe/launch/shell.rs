//! The words of a shell script's commands: quotes, escapes, line continuations, comments and the variables that
//! the script itself sets. Nothing is executed.

use std::collections::HashMap;

/// What is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShellError {
    /// From 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// Characters that end a command outside of quotes.
const ENDS: [char; 4] = ['\n', ';', '&', '|'];

/// The commands of a script, each as its words. `NAME=value` words before a command are variables of the
/// commands after it; a variable that the script does not set is an error where it is used.
pub(super) fn commands(script: &str) -> Result<Vec<Vec<String>>, ShellError> {
    let mut reader = Reader {
        rest: script.chars().peekable(),
        line: 1,
        variables: HashMap::new(),
    };
    let mut commands = Vec::new();
    loop {
        let (words, more) = reader.command()?;
        if !words.is_empty() {
            commands.push(words);
        }
        if !more {
            return Ok(commands);
        }
    }
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    variables: HashMap<String, String>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, ShellError> {
        Err(ShellError {
            line: self.line,
            reason: reason.into(),
        })
    }

    /// The next command, and whether anything follows it.
    fn command(&mut self) -> Result<(Vec<String>, bool), ShellError> {
        let mut words: Vec<String> = Vec::new();
        loop {
            match self.rest.peek().copied() {
                None => return Ok((words, false)),
                Some(c) if ENDS.contains(&c) => {
                    self.next();
                    return Ok((words, true));
                }
                Some('#') => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') && self.next().is_some() {}
                }
                Some(c) if c.is_whitespace() => {
                    self.next();
                }
                Some(_) => {
                    if let Some(word) = self.word()? {
                        self.take(word, &mut words);
                    }
                }
            }
        }
    }

    /// Adds a word, or keeps a variable; `export` is passed over.
    fn take(&mut self, word: String, words: &mut Vec<String>) {
        let assigned = word.split_once('=').filter(|(name, _)| is_name(name));
        match assigned {
            Some((name, value)) if words.is_empty() => {
                self.variables.insert(name.to_owned(), value.to_owned());
            }
            _ if words.is_empty() && word == "export" => {}
            _ => words.push(word),
        }
    }

    /// One word; `None` for a line continuation alone.
    fn word(&mut self) -> Result<Option<String>, ShellError> {
        let (mut word, mut is_word) = (String::new(), false);
        while let Some(c) = self.rest.peek().copied() {
            if c.is_whitespace() || ENDS.contains(&c) {
                break;
            }
            self.next();
            match c {
                '\\' => match self.next() {
                    // With the carriage return of a file from Windows.
                    Some('\r') if self.rest.peek() == Some(&'\n') => {
                        self.next();
                        if !is_word {
                            return Ok(None);
                        }
                    }
                    // What follows begins a word, or a comment.
                    Some('\n') | None if !is_word => return Ok(None),
                    Some('\n') | None => {}
                    Some(c) => {
                        word.push(c);
                        is_word = true;
                    }
                },
                '\'' => {
                    is_word = true;
                    self.quoted('\'', &mut word)?;
                }
                '"' => {
                    is_word = true;
                    self.quoted('"', &mut word)?;
                }
                '$' => {
                    is_word = true;
                    word.push_str(&self.variable()?);
                }
                '`' => return self.fail("commands in backquotes are not run; write their result"),
                c => {
                    word.push(c);
                    is_word = true;
                }
            }
        }
        Ok(is_word.then_some(word))
    }

    fn quoted(&mut self, end: char, word: &mut String) -> Result<(), ShellError> {
        let from = self.line;
        loop {
            match self.next() {
                None => {
                    return Err(ShellError {
                        line: from,
                        reason: format!("a quote {end} is not closed"),
                    });
                }
                Some(c) if c == end => return Ok(()),
                Some('\\') if end == '"' => match self.next() {
                    Some('\n') | None => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                    Some(c) => word.extend(['\\', c]),
                },
                Some('$') if end == '"' => word.push_str(&self.variable()?),
                Some(c) => word.push(c),
            }
        }
    }

    /// The value of the variable whose name follows; a lone dollar stands for itself.
    fn variable(&mut self) -> Result<String, ShellError> {
        let braces = self.rest.peek() == Some(&'{');
        if self.rest.peek() == Some(&'(') {
            return self.fail("commands in $(..) are not run; write their result");
        }
        if braces {
            self.next();
        }
        let mut name = String::new();
        while let Some(c) = self.rest.peek().copied() {
            let goes_on = match braces {
                true => c != '}',
                false => c == '_' || c.is_ascii_alphanumeric(),
            };
            if !goes_on {
                break;
            }
            name.extend(self.next());
        }
        if braces && self.next() != Some('}') {
            return self.fail("a brace { is not closed");
        }
        if name.is_empty() && !braces {
            return Ok("$".into());
        }
        // `${NAME:-default}` and `${NAME-default}`.
        let (name, default) = match name.split_once('-') {
            Some((name, default)) => (name.trim_end_matches(':'), Some(default)),
            None => (name.as_str(), None),
        };
        let value = self.variables.get(name).map(String::as_str).or(default);
        match value {
            Some(value) => Ok(value.to_owned()),
            None => self.fail(format!(
                "${name} is set outside of the script; write its value, or set it above"
            )),
        }
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let script = "#!/bin/bash\n\
            MODEL=models/phi # where it is\n\
            export OUT=\"runs/$MODEL\"\n\
            mkdir -p a && deepspeed  train.py \\\n    --a 'x y' --b=\"$MODEL z\" \\\r\n  --c ${OUT} --d ${NONE:-7} \\\n\
            # said in between\n\
            --e a\\ b '' it\\'s \"q\\\"\\n\"; echo done";
        let all = commands(script).unwrap();
        assert_eq!(all[0], ["mkdir", "-p", "a"]);
        let want = [
            "deepspeed",
            "train.py",
            "--a",
            "x y",
            "--b=models/phi z",
            "--c",
            "runs/models/phi",
            "--d",
            "7",
        ];
        assert_eq!(all[1], want);
        assert_eq!(all[2], ["--e", "a b", "", "it's", "q\"\\n"]);
        assert_eq!(all[3], ["echo", "done"]);
        assert!(commands("").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_known_is_an_error_with_its_line() {
        for (script, line, word) in [
            ("a\nb $HOME_OF_DATA", 2, "HOME_OF_DATA"),
            ("a 'b\nc", 1, "not closed"),
            ("a\n\nb $(date)", 3, "$(..)"),
            ("a `date`", 1, "backquotes"),
            ("a ${X", 1, "brace"),
        ] {
            let error = commands(script).unwrap_err();
            assert_eq!(error.line, line, "{script}");
            assert!(error.reason.contains(word), "{script}: {}", error.reason);
        }
    }
}
