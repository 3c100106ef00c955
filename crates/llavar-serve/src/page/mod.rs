//! The page at `/`: one document with its own style and script, which may reach nothing but this server.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use llavar_http::Response;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The document and the policy under which it runs: its style and script are known by their hashes, so that
/// nothing that a model says can become either.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = include_str!("page.html")
        .replace("{STYLE}", STYLE)
        .replace("{SCRIPT}", SCRIPT);
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data: blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    (page, policy)
});

/// The page.
pub(crate) fn response() -> Response {
    let (page, policy) = &*PAGE;
    Response::new(200, "text/html; charset=utf-8", page.as_str())
        .with("Content-Security-Policy", policy.as_str())
        .with("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_reaches_nothing_else() {
        let (page, policy) = &*PAGE;
        for part in [STYLE, SCRIPT] {
            assert!(page.contains(part));
            let hash = STANDARD.encode(Sha256::digest(part.as_bytes()));
            assert!(policy.contains(&format!("'sha256-{hash}'")));
        }
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
        assert!(!page.contains("{STYLE}") && !page.contains("{SCRIPT}"));
        // Nothing is fetched from elsewhere, and texts of models become text alone.
        for never in [
            "http:",
            "https:",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!page.contains(never), "{never}");
        }
    }
}
