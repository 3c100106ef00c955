//! Where a server is.

use crate::ClientError;

/// The base address of a server, ending in `/v1` as published by OpenAI-compatible servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
}

impl Endpoint {
    /// Reads an address as people write it: with or without `/v1`, a final slash, or the path of one
    /// operation. A path of its own (`https://host/openai/v1`) is kept.
    ///
    /// # Errors
    /// [`ClientError::BadEndpoint`]: no `http://` or `https://`, no host, user name and password in it.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadEndpoint {
            // What stands before an @ is a password more often than not.
            text: match text.split_once('@') {
                Some((_, host)) => format!("[hidden]@{host}"),
                None => text.to_owned(),
            },
            reason,
        };
        let text_ = text.trim();
        let Some((scheme, rest)) = text_.split_once("://") else {
            return Err(bad("it must begin with http:// or https://"));
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(bad("it must begin with http:// or https://"));
        }
        if rest.contains(['?', '#']) {
            return Err(bad("it must not have ? or #"));
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("it has spaces"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return Err(bad("keys belong in the environment, not in the address"));
        }
        if host.is_empty() || host.starts_with(':') {
            return Err(bad("it has no host"));
        }
        // What follows the last colon outside an IPv6 address is a port.
        let port = host
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        if port.is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(bad("its port is no number"));
        }
        let mut path = path.trim_matches('/');
        for operation in ["chat/completions", "completions", "models"] {
            path = path
                .strip_suffix(operation)
                .map_or(path, |p| p.trim_end_matches('/'));
        }
        let path = if path.is_empty() { "v1" } else { path };
        let base = format!("{scheme}://{host}/{path}");
        // The address must be one for the HTTP library too.
        if base.parse::<ureq::http::Uri>().is_err() {
            return Err(bad("it is no address"));
        }
        Ok(Self { base })
    }

    /// The address of one operation, as `chat/completions`.
    pub(crate) fn of(&self, operation: &str) -> String {
        format!("{}/{operation}", self.base)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (given, base) in [
            ("http://localhost:8000", "http://localhost:8000/v1"),
            ("http://localhost:8000/", "http://localhost:8000/v1"),
            ("HTTPS://api.x.com/v1/", "https://api.x.com/v1"),
            ("http://h/v1/chat/completions", "http://h/v1"),
            ("http://h/v1/models/", "http://h/v1"),
            ("https://h/openai/v1", "https://h/openai/v1"),
            ("http://[::1]:80", "http://[::1]:80/v1"),
        ] {
            assert_eq!(Endpoint::parse(given).unwrap().to_string(), base, "{given}");
        }
        for bad in [
            "",
            "localhost:8000",
            "ftp://h",
            "http://",
            "http:///v1",
            "http://:80",
            "http://a b",
            "http://h?key=1",
            "http://h:port",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        let error = Endpoint::parse("http://me:secret@host").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
