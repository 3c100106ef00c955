//! The review server by plain HTTP: what it lets in, what it keeps out, what it writes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use llavar_image::{RgbImage, encode_png};
use llavar_instruct::{
    Duo, Journal, PictureResult, RunFile, Settings, output, read_pictures, review::ReviewServer,
    write_pictures,
};
use serde_json::{Value, json};

fn run_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images")).unwrap();
    let png = encode_png(&RgbImage::filled(40, 30, [1, 2, 3])).unwrap();
    std::fs::write(dir.path().join("images/a.png"), png).unwrap();
    let duo = |n: u32| Duo {
        extractive_question: format!("What is number {n}?"),
        extractive_answer: format!("It is <script>alert({n})</script>."),
        self_explain_question: "Where does it stand in the image?".into(),
        self_explain_answer: format!("The text \"N {n}\" stands at the top."),
    };
    let picture: PictureResult = serde_json::from_value(json!({
        "name": "a.png", "hash": "abc", "width": 40, "height": 30, "lines":
            [{"quad": [[1, 1], [9, 1], [9, 5], [1, 5]], "text": "N 0", "score": 0.9}],
        "human_caption": null, "caption": "A sign.", "duos": [duo(0), duo(1)], "rejected": [],
        "proposed": 2, "state": "done",
    }))
    .unwrap();
    write_pictures(dir.path(), &[picture]).unwrap();
    RunFile {
        version: "0".into(),
        images: dir.path().join("images"),
        images_from_run: None,
        captions: None,
        ocr: "sidecar".into(),
        endpoint: "template".into(),
        sampling: None,
        prompts: vec![],
        settings: Settings::default(),
        test_fraction: 0.0,
    }
    .write(dir.path())
    .unwrap();
    dir
}

struct Page<'a> {
    host: &'a str,
    token: &'a str,
}

impl Page<'_> {
    fn raw(&self, request: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        let sign = if path.contains('?') { '&' } else { '?' };
        self.raw(&format!(
            "GET {path}{sign}token={} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.token, self.host
        ))
    }

    fn post(&self, token: &str, body: &Value) -> (u16, String) {
        let body = body.to_string();
        let (status, _, text) = self.raw(&format!(
            "POST /api/verdict HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nX-Token: {token}\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        ));
        (status, String::from_utf8(text).unwrap())
    }
}

fn with_server(run: &Path, test: impl FnOnce(&Page<'_>)) {
    let server = ReviewServer::open(run, 0).unwrap();
    let url = server.url();
    let rest = url.strip_prefix("http://").unwrap();
    let (host, token) = rest.split_once("/?token=").unwrap();
    assert!(host.starts_with("127.0.0.1:") && token.len() == 32);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(&stop));
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            test(&Page { host, token });
        }));
        stop.store(true, SeqCst);
        serving.join().unwrap();
        tested.unwrap();
    });
}

#[test]
fn decisions_reach_the_journal_and_the_data_set() {
    let dir = run_folder();
    let (mut first, mut second) = (String::new(), String::new());
    with_server(dir.path(), |page| {
        let (status, head, html) = page.get("/");
        assert_eq!(status, 200);
        assert!(head.contains("default-src 'none'"));
        let html = String::from_utf8(html).unwrap();
        assert!(
            !html.contains("http://") && !html.contains("https://"),
            "no outside resources"
        );
        for (path, kind) in [
            ("/page.js", "javascript"),
            ("/page.css", "css"),
            ("/image?i=0", "image/png"),
        ] {
            let (status, head, body) = page.get(path);
            assert!(
                status == 200 && head.contains(kind) && !body.is_empty(),
                "{path}: {head}"
            );
        }
        let shown: Value = serde_json::from_slice(&page.get("/api/picture?i=0").2).unwrap();
        first = shown["duos"][0]["id"].as_str().unwrap().to_owned();
        second = shown["duos"][1]["id"].as_str().unwrap().to_owned();
        assert_eq!(shown["boxes"][0]["text"], "N 0");
        let edited = json!({"extractive_question": "What is it?", "extractive_answer": " It is N 0. ",
            "self_explain_question": "Where is it?", "self_explain_answer": "\"N 0\" stands at the top."});
        for (duo, who, verdict, edited) in [
            (&first, "ann", "edit", edited),
            (&first, "bob", "accept", Value::Null),
            (&second, "ann", "reject", Value::Null),
            (&second, "bob", "reject", Value::Null),
        ] {
            let body = json!({"picture": 0, "duo": duo, "reviewer": who, "verdict": verdict, "edited": edited});
            let (status, text) = page.post(page.token, &body);
            assert_eq!(status, 200, "{text}");
        }
        let list: Value = serde_json::from_slice(&page.get("/api/list").2).unwrap();
        assert_eq!(list["pictures"][0]["duos"][0]["said"]["ann"], "edit");
        assert_eq!(list["agreement"][0]["kappa"], 1.0);
    });
    let verdicts = Journal::open_to_read(dir.path()).unwrap().verdicts();
    assert_eq!(verdicts.len(), 4);
    let reviewed = output::apply(&read_pictures(dir.path()).unwrap(), &verdicts);
    let duos = &reviewed.pictures[0].duos;
    assert_eq!(duos.len(), 1);
    assert_eq!(duos[0].extractive_answer, "It is N 0.");
}

#[test]
fn strangers_and_nonsense_are_kept_out() {
    let dir = run_folder();
    with_server(dir.path(), |page| {
        let stranger = Page {
            host: page.host,
            token: "0123",
        };
        assert_eq!(stranger.get("/").0, 403);
        assert_eq!(stranger.get("/image?i=0").0, 403);
        let foreign = format!(
            "GET /?token={} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            page.token
        );
        assert_eq!(
            page.raw(&foreign).0,
            403,
            "a name that was bent to this address"
        );
        let decision = |verdict: &str, duo: &str| json!({"picture": 0, "duo": duo, "reviewer": "x", "verdict": verdict});
        assert_eq!(page.post("wrong", &decision("accept", "x")).0, 403);
        assert_eq!(page.post(page.token, &decision("accept", "x")).0, 404);
        assert_eq!(page.post(page.token, &json!({"picture": "a"})).0, 400);
        let shown: Value = serde_json::from_slice(&page.get("/api/picture?i=0").2).unwrap();
        let id = shown["duos"][0]["id"].as_str().unwrap();
        assert_eq!(page.post(page.token, &decision("maybe", id)).0, 400);
        assert_eq!(
            page.post(page.token, &decision("edit", id)).0,
            400,
            "without texts"
        );
        let mut second_picture = decision("edit", id);
        second_picture["edited"] = json!({"extractive_question": "What is it?",
            "extractive_answer": "The tag \"<image>\" is printed <b>there</b>.",
            "self_explain_question": "Where is it?", "self_explain_answer": "At the top."});
        let (status, text) = page.post(page.token, &second_picture);
        assert!(status == 400 && text.contains("<image>"), "{status} {text}");
        for path in [
            "/image?i=7",
            "/image?i=../../etc/passwd",
            "/etc/passwd",
            "/api/picture",
        ] {
            assert_eq!(page.get(path).0, 404, "{path}");
        }
        let long = format!("GET /?x={} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(40_000));
        // The server may hang up before all of it is written.
        let mut stream = TcpStream::connect(page.host).unwrap();
        let _ = stream.write_all(long.as_bytes());
        let head = format!(
            "POST /api/verdict HTTP/1.1\r\nHost: {}\r\nContent-Length: 99999999\r\n",
            page.host
        );
        assert_eq!(page.raw(&format!("{head}\r\n")).0, 403, "unread");
        let known = format!("{head}X-Token: {}\r\n\r\n", page.token);
        assert_eq!(page.raw(&known).0, 413);
        assert_eq!(page.raw("nonsense\r\n\r\n").0, 400);
        assert_eq!(page.get("/").0, 200, "it still serves");
    });
    assert!(
        Journal::open_to_read(dir.path())
            .unwrap()
            .verdicts()
            .is_empty()
    );
}
