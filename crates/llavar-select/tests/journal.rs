//! Rows are in the journal as soon as they are there; torn ends and journals of earlier versions.
#![allow(clippy::unwrap_used)]

mod served;

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubServer},
};
use llavar_data::{Dataset, TemplateName};
use llavar_eval::samples::Shard;
use llavar_select::{
    Journal, RemoteModel, RunInfo, ScoreOptions, ScoreRun, ScoreSet, Scorer, SelectError,
    score_dataset,
};
use serde_json::json;
use served::{assistant, samples, scored};

/// The samples of [`samples`] scored by a server, one request at a time.
fn run(folder: &Path, server: &StubServer) -> Result<ScoreRun, SelectError> {
    let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
    let remote = RemoteModel::new(client, "m", TemplateName::V1, 1);
    let options = ScoreOptions {
        scores: ScoreSet::TEXT,
        ..ScoreOptions::default()
    };
    let scorer = Scorer::remote(&remote, options).unwrap();
    // The address has another port every time.
    let mut info = RunInfo::new(&scorer, folder).unwrap();
    info.model = "m".to_owned();
    let data = Dataset::open(&folder.join("data.json"), None).unwrap();
    let mut journal = Journal::open(&folder.join("journal.jsonl"), &info).unwrap();
    score_dataset(&scorer, &data, Shard::default(), &mut journal, &mut |_| {
        ControlFlow::Continue(())
    })
}

fn write_data(folder: &Path) {
    let samples = samples().into_iter().map(|sample| {
        let turns = sample.conversations.iter().enumerate().map(
            |(i, turn)| json!({"from": if i % 2 == 0 { "human" } else { "gpt" }, "value": turn.value}),
        );
        json!({"id": sample.id.to_string(), "conversations": turns.collect::<Vec<_>>()})
    });
    let text = serde_json::to_vec(&samples.collect::<Vec<_>>()).unwrap();
    fs::write(folder.join("data.json"), text).unwrap();
}

#[test]
fn a_sample_is_in_the_journal_while_the_next_is_asked() {
    let assistant = Arc::new(assistant());
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let path = folder.path().join("journal.jsonl");
    let good = {
        let assistant = assistant.clone();
        move |prompt: &str| {
            let list = scored(&assistant, prompt).vllm();
            Reply::Json(json!({"choices": [{"text": "x", "prompt_logprobs": list}]}))
        }
    };

    // The server gives up at the last sample, and before that waits for the rows of the first.
    let found = Arc::new(AtomicBool::new(false));
    let server = {
        let (path, found, good) = (path.clone(), found.clone(), good.clone());
        StubServer::start(move |request| {
            let prompt = request.body["prompt"].as_str().unwrap();
            if !prompt.contains("Nobody") {
                return good(prompt);
            }
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) && !found.load(Relaxed) {
                // The settings, and two pairs.
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                found.store(lines >= 3, Relaxed);
                sleep(Duration::from_millis(5));
            }
            Reply::error(401, "who are you")
        })
        .unwrap()
    };
    let error = run(folder.path(), &server).unwrap_err();
    assert!(matches!(error, SelectError::Server(_)), "{error}");
    assert!(found.load(Relaxed), "nothing was written in time");

    // What was answered is not asked again, but for a line that was cut off.
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 1 + 3);
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let server = StubServer::start(move |request| good(request.body["prompt"].as_str().unwrap()));
    let server = server.unwrap();
    let again = run(folder.path(), &server).unwrap();
    assert_eq!((again.view.resumed, again.view.pairs), (2, 2));
    assert_eq!(server.requests().len(), 4);
    let once_more = run(folder.path(), &server).unwrap();
    assert_eq!((once_more.view.resumed, once_more.view.pairs), (4, 0));
    assert_eq!(once_more.rows, again.rows, "to the last bit");
}
