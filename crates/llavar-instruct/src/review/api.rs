//! What the page asks for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use llavar_client::same_secret;
use llavar_data::IMAGE_TAG;
use llavar_http::{Exchange, Handler, Head, ReadFault, Response};

use super::Review;
use crate::{
    Duo, Entry, PictureResult, Verdict,
    checks::{Evidence, Rules},
    journal::now,
    output::agreement,
};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// A decision as the page sends it.
#[derive(Debug, Deserialize)]
struct Decision {
    picture: usize,
    duo: String,
    reviewer: String,
    verdict: String,
    edited: Option<Duo>,
    #[serde(default)]
    note: String,
}

/// Model output is not trusted: only the page's own script runs, and nothing leaves the page.
const GUARDS: [(&str, &str); 2] = [
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'self'; style-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

impl Handler for Review {
    fn handle(&self, exchange: &mut Exchange<'_>) {
        for (name, value) in GUARDS {
            exchange.add_header(name, value.to_owned());
        }
        let response = match self.respond(exchange) {
            Ok(response) => response,
            Err(ReadFault::Gone) => return,
            Err(ReadFault::Refused { status, message }) => self.refusal(status, &message),
        };
        // A browser that goes away is no fault.
        let _ = exchange.respond(&response);
    }

    fn refusal(&self, status: u16, message: &str) -> Response {
        Response::text(status, message)
    }
}

impl Review {
    fn respond(&self, exchange: &mut Exchange<'_>) -> Result<Response, ReadFault> {
        let head = exchange.head;
        let port = self.address.port();
        let ours = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let host = head.header("host");
        if !host.is_some_and(|host| ours.iter().any(|one| one == host)) {
            return Ok(Response::text(403, "wrong host"));
        }
        let token = match head.method.as_str() {
            "POST" => head.header("x-token"),
            _ => head.query_value("token"),
        };
        if !token.is_some_and(|token| same_secret(&self.token, token)) {
            let message = "open the address that `llavar instruct review` printed";
            return Ok(Response::text(403, message));
        }
        Ok(match (head.method.as_str(), head.path.as_str()) {
            ("GET", "/") => {
                let page = PAGE.replace("TOKEN", &self.token);
                Response::new(200, "text/html; charset=utf-8", page)
            }
            ("GET", "/page.js") => Response::new(200, "text/javascript", SCRIPT),
            ("GET", "/page.css") => Response::new(200, "text/css", STYLE),
            ("GET", "/api/list") => Response::json(200, &self.list()),
            ("GET", "/api/picture") => match self.picture(head) {
                Some((i, picture)) => Response::json(200, &self.show(i, picture)),
                None => Response::text(404, "no such picture"),
            },
            ("GET", "/image") => match self.picture(head) {
                Some((_, picture)) => self.image(picture),
                None => Response::text(404, "no such picture"),
            },
            ("POST", "/api/verdict") => self.decide(&exchange.body()?.into_parts().0),
            ("GET" | "POST", _) => Response::text(404, "there is nothing here"),
            _ => Response::text(405, "GET and POST alone"),
        })
    }

    fn picture(&self, head: &Head) -> Option<(usize, &PictureResult)> {
        let i: usize = head.query_value("i")?.parse().ok()?;
        Some((i, self.pictures.get(i)?))
    }

    fn list(&self) -> Value {
        let mut by_duo: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let verdicts = self.journal.verdicts();
        for verdict in &verdicts {
            let of_duo = by_duo.entry(verdict.duo.clone()).or_default();
            match verdict.verdict.as_str() {
                "undo" => of_duo.remove(&verdict.reviewer),
                said => of_duo.insert(verdict.reviewer.clone(), said.to_owned()),
            };
        }
        let pictures = self.pictures.iter().map(|picture| {
            let duos: Vec<Value> = picture
                .duos
                .iter()
                .map(|duo| {
                    let id = duo.id(&picture.hash);
                    json!({"said": by_duo.get(&id), "id": id})
                })
                .collect();
            json!({"name": picture.name, "duos": duos})
        });
        json!({
            "pictures": pictures.collect::<Vec<_>>(),
            "agreement": agreement(&verdicts),
            "model": self.file.sampling.as_ref().map_or("template", |s| &s.model),
        })
    }

    fn show(&self, i: usize, picture: &PictureResult) -> Value {
        let verdicts = self.journal.verdicts();
        let duos = picture.duos.iter().map(|duo| {
            let id = duo.id(&picture.hash);
            let mut said: BTreeMap<&str, &Verdict> = BTreeMap::new();
            for verdict in verdicts.iter().filter(|verdict| verdict.duo == id) {
                match verdict.verdict.as_str() {
                    "undo" => said.remove(verdict.reviewer.as_str()),
                    _ => said.insert(&verdict.reviewer, verdict),
                };
            }
            json!({"id": id, "texts": duo.texts(), "said": said})
        });
        let boxes = picture
            .lines
            .iter()
            .map(|line| json!({"quad": line.quad, "text": line.text, "score": line.score}));
        json!({
            "i": i, "name": picture.name, "width": picture.width, "height": picture.height,
            "caption": picture.caption, "human_caption": picture.human_caption,
            "duos": duos.collect::<Vec<_>>(), "boxes": boxes.collect::<Vec<_>>(),
        })
    }

    fn image(&self, picture: &PictureResult) -> Response {
        match std::fs::read(self.images.join(&picture.name)) {
            Ok(bytes) => {
                let kind = match llavar_image::ImageFormat::from_content(&bytes) {
                    Some(format) => crate::pictures::mime(format),
                    None => return Response::text(404, "it is no picture any more"),
                };
                Response::new(200, kind, bytes)
            }
            Err(error) => Response::text(404, error.to_string()),
        }
    }

    fn decide(&self, body: &[u8]) -> Response {
        let decision: Decision = match serde_json::from_slice(body) {
            Ok(decision) => decision,
            Err(error) => return Response::text(400, error.to_string()),
        };
        let reviewer = decision.reviewer.trim();
        if reviewer.is_empty() || reviewer.chars().count() > 60 {
            return Response::text(400, "a reviewer has a name of 1 to 60 characters");
        }
        let picture = self.pictures.get(decision.picture);
        let known = picture.and_then(|picture| {
            let duo = picture
                .duos
                .iter()
                .find(|duo| duo.id(&picture.hash) == decision.duo)?;
            Some((picture, duo))
        });
        let Some((picture, duo)) = known else {
            return Response::text(404, "no such duo");
        };
        let edited = match (decision.verdict.as_str(), decision.edited) {
            ("accept" | "reject" | "undo", _) => None,
            // A second one would make the picture's whole record unusable.
            ("edit", Some(edited)) if edited.holds_image_tag() => {
                let message =
                    format!("a text cannot hold `{IMAGE_TAG}`: that is where the picture goes");
                return Response::text(400, message);
            }
            ("edit", Some(edited)) if edited.texts().iter().all(|text| !text.trim().is_empty()) => {
                Some(Duo::from_texts(
                    edited.texts().map(|text| text.trim().to_owned()),
                ))
            }
            ("edit", _) => return Response::text(400, "an edit needs all four texts"),
            _ => return Response::text(400, "a verdict is accept, edit, reject or undo"),
        };
        // A person may know better than the rules; what they would say is shown all the same.
        let warning = edited.as_ref().and_then(|edited| {
            let others: Vec<Duo> = picture
                .duos
                .iter()
                .filter(|one| *one != duo)
                .cloned()
                .collect();
            warning(&self.file.settings.rules, edited, &others, picture)
        });
        let written = self.journal.append(Entry::Review(Verdict {
            time: now(),
            duo: decision.duo,
            reviewer: reviewer.to_owned(),
            verdict: decision.verdict,
            edited,
            note: decision.note.chars().take(2000).collect(),
        }));
        match written {
            Ok(()) => Response::json(200, &json!({"saved": true, "warning": warning})),
            Err(error) => Response::text(500, error.to_string()),
        }
    }
}

fn warning(rules: &Rules, duo: &Duo, others: &[Duo], picture: &PictureResult) -> Option<String> {
    let size = (picture.width, picture.height);
    let evidence = Evidence::of_page(&picture.lines, size, picture.human_caption.as_deref());
    let broken = rules.duo(duo, others, &evidence).err()?;
    Some(broken.detail)
}
