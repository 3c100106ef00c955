//! The key of a server: read from the environment, never shown.

use crate::ClientError;

/// A secret that only the transport can read. `Debug` shows no part of it.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key in environment variable `name`; `None` where it is not set or empty.
    ///
    /// # Errors
    /// [`ClientError::BadKey`] where it cannot stand in a header.
    pub fn from_env(name: &str) -> Result<Option<Self>, ClientError> {
        let bad = |reason| ClientError::BadKey {
            variable: name.to_owned(),
            reason,
        };
        // A name with `=` or a zero byte is a panic of some platforms' look-up.
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad("that is no name of a variable"));
        }
        let Some(value) = std::env::var_os(name) else {
            return Ok(None);
        };
        let value = value.into_string().map_err(|_| bad("it is not UTF-8"))?;
        // Keys are often read from files that end in a line break.
        let value = value.trim();
        if value.is_empty() {
            return Ok(None);
        }
        if !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has spaces or characters that no header may hold"));
        }
        Ok(Some(Self(value.to_owned())))
    }

    /// Whether a client sent this key; see [`same_secret`].
    pub fn is(&self, sent: &str) -> bool {
        same_secret(&self.0, sent)
    }

    /// For the header alone.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// `text` without the key: servers quote it in their messages.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }

    /// A key for tests.
    #[cfg(feature = "testing")]
    pub fn for_tests(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey([hidden])")
    }
}

/// Whether what was sent is a secret of our own. How long that takes says nothing of how much of it was right.
pub fn same_secret(own: &str, sent: &str) -> bool {
    let differ = |seen, (own, sent): (u8, u8)| std::hint::black_box(seen | usize::from(own ^ sent));
    let both = own.bytes().cycle().zip(sent.bytes());
    both.fold(own.len() ^ sent.len(), differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_key() {
        let key = ApiKey("sk-secret".into());
        assert!(!format!("{key:?} {:?}", Some(&key)).contains("secret"));
        assert_eq!(key.redact("bad key sk-secret!"), "bad key [key]!");
    }

    #[test]
    fn only_the_whole_key_is_the_key() {
        let key = ApiKey("sk-secret".into());
        assert!(key.is("sk-secret"));
        for other in [
            "",
            "s",
            "sk-secre",
            "sk-secret1",
            "sk-secretsk-secret",
            "Sk-secret",
            "é",
        ] {
            assert!(!key.is(other), "{other}");
        }
        assert!(same_secret("", "") && !same_secret("", "x"));
    }

    #[test]
    fn unset_is_none_and_bad_names_are_errors() {
        assert!(
            ApiKey::from_env("LLAVAR_NO_SUCH_KEY_IS_SET")
                .unwrap()
                .is_none()
        );
        assert!(ApiKey::from_env("A=B").is_err());
        // PATH is set everywhere and is no key, yet may stand in a header.
        assert!(ApiKey::from_env("PATH").unwrap().is_some());
    }
}
