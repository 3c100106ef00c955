//! Jobs that come and go while others are answered.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    tests::{alike_prompts, greedy, many_prompts, model, run},
    *,
};

/// Jobs that come when so many tokens have been generated on the whole; some are given up.
struct Arrivals {
    coming: VecDeque<(usize, usize, Job)>,
    /// Tokens after which the owner of a job is gone.
    given_up: HashMap<usize, usize>,
    tokens: usize,
    got: HashMap<usize, Vec<u32>>,
    done: HashMap<usize, Generation>,
    most_at_once: usize,
    most_joining: usize,
    /// Tokens of the answers under way when the last job came.
    at_last: HashMap<usize, usize>,
}

impl Arrivals {
    fn at_once(&self) -> usize {
        self.got.len() - self.done.len()
    }
}

impl Source for Arrivals {
    type Key = usize;

    fn next(&mut self, idle: bool) -> Option<(usize, Job)> {
        let due = |(at, ..): &&(usize, usize, Job)| idle || *at <= self.tokens;
        self.coming.front().filter(due)?;
        let (_, number, job) = self.coming.pop_front()?;
        self.got.insert(number, Vec::new());
        self.most_at_once = self.most_at_once.max(self.at_once());
        if self.most_joining == 1 && job.max_new > 0 {
            for (other, tokens) in &self.at_last {
                let went_on = self.done.contains_key(other) || self.got[other].len() > *tokens;
                assert!(went_on, "no step between two that joined");
            }
            let lengths = self.got.iter().map(|(other, ids)| (*other, ids.len()));
            self.at_last = lengths.collect();
        }
        Some((number, job))
    }

    fn most_joining(&self) -> usize {
        self.most_joining
    }

    fn is_waiting(&self) -> bool {
        let first = self.coming.front();
        first.is_some_and(|(at, ..)| *at <= self.tokens)
    }

    fn on_token(&mut self, number: &usize, id: u32, log_probability: f32) -> ControlFlow<()> {
        assert!(log_probability <= 0.0);
        self.tokens += 1;
        let got = self.got.get_mut(number).unwrap();
        got.push(id);
        match self.given_up.get(number) {
            Some(after) if got.len() >= *after => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn done(&mut self, number: usize, answer: Generation) {
        assert_eq!(answer.ids, self.got[&number]);
        assert!(self.done.insert(number, answer).is_none());
    }
}

/// Changes of [`model`] for texts of 256 tokens: one rotation, and another for long texts.
pub(super) fn variants() -> [Value; 2] {
    [
        json!({"max_position_embeddings": 256}),
        json!({
            "max_position_embeddings": 256, "original_max_position_embeddings": 20,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                             "long_factor": [1.0, 3.0, 6.0, 9.0]}
        }),
    ]
}

/// Answers 40 jobs of all kinds in 3 slots; each has to be what the model says alone.
pub(super) fn come_and_go(model: &LlavaModel, most_joining: usize, what: &str) {
    // Long ones with a beginning in common, and short ones.
    let prompts = [alike_prompts(20), many_prompts(20)].concat();
    let ways = [
        greedy(15),
        GenerationOptions {
            temperature: 1.5,
            top_p: Some(0.9),
            seed: 3,
            ..greedy(12)
        },
        GenerationOptions {
            repetition_penalty: 1.4,
            ..greedy(9)
        },
        GenerationOptions {
            stop_ids: vec![3, 11, 19, 26, 33],
            ..greedy(20)
        },
        greedy(0),
    ];
    let options = |i: usize| &ways[i * 7 % ways.len()];
    let jobs = prompts.iter().enumerate().map(|(i, prompt)| {
        let job = Job::new(model, prompt, None, Arc::new(options(i).clone()), 256);
        (i * 4, i, job.unwrap())
    });
    let mut arrivals = Arrivals {
        coming: jobs.collect(),
        given_up: (0..prompts.len()).step_by(3).map(|i| (i, i % 7)).collect(),
        tokens: 0,
        got: HashMap::new(),
        done: HashMap::new(),
        most_at_once: 0,
        most_joining,
        at_last: HashMap::new(),
    };
    let room = Room::of(model, Some(3), Some(256));
    assert_eq!((room.slots, room.context), (3, 256));
    generate_as_they_come(model, room, None, &mut arrivals).unwrap();
    assert_eq!(arrivals.done.len(), prompts.len());
    assert_eq!(arrivals.most_at_once, 3);
    for (i, prompt) in prompts.iter().enumerate() {
        let (want, got) = (run(model, prompt, options(i)), &arrivals.done[&i]);
        if got.stop_reason == StopReason::Callback {
            // What came until then is the beginning of the same answer.
            assert_eq!(got.ids, want.ids[..got.ids.len()], "{what} {i}");
        } else {
            assert_eq!(got.ids, want.ids, "{what} {i}");
            assert_eq!(got.stop_reason, want.stop_reason, "{what} {i}");
        }
    }
    let gone = |answer: &&Generation| answer.stop_reason == StopReason::Callback;
    assert!(arrivals.done.values().filter(gone).count() > 5);
}

#[test]
fn jobs_that_come_and_go_do_not_change_each_others_answers() {
    for changes in variants() {
        for most_joining in [1, 2, usize::MAX] {
            come_and_go(&model(changes.clone()), most_joining, &changes.to_string());
        }
    }
}

#[test]
fn a_job_knows_its_room() {
    let model = model(json!({"max_position_embeddings": 64}));
    let job =
        |prompt: &[i32], context| Job::new(&model, prompt, None, Arc::new(greedy(100)), context);
    let (short, long) = (vec![5; 10], vec![5; 40]);
    let fits = job(&short, 16).unwrap();
    assert_eq!((fits.prompt_tokens(), fits.max_new), (10, 6));
    assert_eq!(fits.at_limit, StopReason::ContextFull);
    assert_eq!(
        job(&short, 1 << 20).unwrap().max_new,
        54,
        "the model's own limit"
    );
    let error = job(&long, 40).unwrap_err();
    assert!(matches!(
        error,
        ModelError::PromptTooLong {
            prompt: 40,
            context: 40
        }
    ));
    assert_eq!(Room::of(&model, None, Some(1 << 20)).context, 64);
    let room = Room::of(&model, Some(5), None);
    assert_eq!(
        room.bytes(&model),
        5 * Room::of(&model, Some(1), None).bytes(&model)
    );
    assert_eq!(
        Room::of(&model, Some(0), Some(0)),
        Room {
            slots: 1,
            context: 2
        }
    );
}
