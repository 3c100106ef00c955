//! What the server says to whoever runs it.

use std::{error::Error, fmt, sync::Arc};

/// Takes lines for people.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// Lines go to `take`.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Lines go nowhere.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    pub(crate) fn line(&self, line: &str) {
        (self.0)(line);
    }

    /// An error with its causes, in one line.
    pub(crate) fn error(&self, what: &str, error: &dyn Error) {
        let mut line = format!("error: {what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Messages often quote their cause already.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        self.line(&line);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
