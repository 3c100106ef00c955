//! A folder of pictures with many requests at once.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use llavar_ocr::Reader;

use crate::{
    Caller, Duo, InstructError, Picture, PictureResult, Pictures, Prompts, Settings, State,
    checks::{Broken, Evidence, Reason},
    generate::{self, Halt, Writer, rejection},
};

/// Pictures in a row whose requests fail before the server counts as gone.
const GONE: usize = 12;

/// Where a run is.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// Pictures gone through.
    pub done: usize,
    /// Pictures in all.
    pub pictures: usize,
    /// Duos kept.
    pub kept: usize,
    /// Duos proposed.
    pub proposed: usize,
    /// Pictures that failed.
    pub failed: usize,
}

/// Why a run ended before its last picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The next request might have passed the budget.
    Budget,
    /// The user asked.
    Cancelled,
}

/// What a run made.
#[derive(Debug)]
pub struct Generated {
    /// Of every picture, in order; those that were not reached are [`State::Pending`].
    pub pictures: Vec<PictureResult>,
    /// Why it ended early.
    pub stop: Option<Stop>,
    /// What ended it early by force: what was done is in `pictures` all the same.
    pub error: Option<InstructError>,
}

/// Goes through all pictures. Without a `caller` they are written from the page alone.
///
/// # Determinism
/// The result depends on pictures, settings and the journal's answers, not on the order of requests. So it does in a
/// run that ends early: what is answered already is in it all the same.
pub fn generate(
    pictures: &Pictures,
    captions: &HashMap<String, String>,
    reader: &Reader,
    caller: Option<(&Caller<'_>, &Prompts)>,
    settings: &Settings,
    threads: usize,
    cancel: &AtomicBool,
    watch: &(dyn Fn(View) + Sync),
) -> Generated {
    let shared = Mutex::new(Shared {
        results: pictures
            .names
            .iter()
            .map(|name| PictureResult::new(name, State::Pending))
            .collect(),
        view: View {
            pictures: pictures.names.len(),
            ..View::default()
        },
        halt: None,
    });
    let pass = Pass {
        pictures,
        captions,
        reader,
        settings,
        threads,
        watch,
        shared: &shared,
    };
    let all: Vec<usize> = (0..pictures.names.len()).collect();
    let writer = match caller {
        Some((caller, prompts)) => Writer::Model(caller, prompts),
        None => Writer::Template,
    };
    pass.go(&all, &writer, Some(cancel));
    if let Some((caller, prompts)) = caller
        && lock(&shared).halt.is_some()
    {
        // The journal alone goes on. Pictures that it does not name are not looked at: reading their text would take
        // long, and nobody waits for it any more.
        let asked = caller.journal.pictures();
        let is_left = |i: &usize| {
            asked.contains(&pictures.names[*i]) && lock(&shared).results[*i].state == State::Pending
        };
        let left: Vec<usize> = all.into_iter().filter(is_left).collect();
        let offline = Caller {
            client: None,
            ..*caller
        };
        pass.go(&left, &Writer::Model(&offline, prompts), None);
    }
    let mut shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    drop_copies(&mut shared.results, settings);
    let (stop, error) = match shared.halt {
        None => (None, None),
        Some(Halt::Budget) => (Some(Stop::Budget), None),
        Some(Halt::Cancelled) => (Some(Stop::Cancelled), None),
        Some(Halt::Error(error)) => (None, Some(error)),
    };
    Generated {
        pictures: shared.results,
        stop,
        error,
    }
}

/// One way through pictures with several threads.
struct Pass<'a> {
    pictures: &'a Pictures,
    captions: &'a HashMap<String, String>,
    reader: &'a Reader,
    settings: &'a Settings,
    threads: usize,
    watch: &'a (dyn Fn(View) + Sync),
    shared: &'a Mutex<Shared>,
}

impl Pass<'_> {
    /// Goes through those pictures, until something stops it or somebody sets `cancel`.
    fn go(&self, which: &[usize], writer: &Writer<'_>, cancel: Option<&AtomicBool>) {
        let next = AtomicUsize::new(0);
        let halted = AtomicBool::new(false);
        let in_a_row = AtomicUsize::new(0);
        let stop = |reason| halt(self.shared, &halted, reason);
        let work = || {
            while !halted.load(Relaxed) {
                if cancel.is_some_and(|cancel| cancel.load(Relaxed)) {
                    return stop(Halt::Cancelled);
                }
                let Some(&i) = which.get(next.fetch_add(1, Relaxed)) else {
                    break;
                };
                let result = match self.picture(&self.pictures.names[i], writer) {
                    Ok(result) => result,
                    Err(reason) => return stop(reason),
                };
                if let State::Failed { class, reason } = &result.state {
                    // Refusals are of a picture; what passes by itself is of the server.
                    let of_picture =
                        ["refused", "context_length", "filtered"].contains(&class.as_str());
                    if !of_picture && in_a_row.fetch_add(1, Relaxed) + 1 >= GONE {
                        stop(Halt::Error(InstructError::ServerGone {
                            failures: GONE,
                            last: reason.clone(),
                        }));
                    }
                } else {
                    in_a_row.store(0, Relaxed);
                }
                let mut shared = lock(self.shared);
                shared.view.done += 1;
                shared.view.kept += result.duos.len();
                shared.view.proposed += result.proposed;
                shared.view.failed += usize::from(matches!(result.state, State::Failed { .. }));
                shared.results[i] = result;
                let view = shared.view;
                drop(shared);
                (self.watch)(view);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.clamp(1, which.len().max(1)) {
                scope.spawn(work);
            }
        });
    }

    fn picture(&self, name: &str, writer: &Writer<'_>) -> Result<PictureResult, Halt> {
        let caption = self.captions.get(name).map(String::as_str);
        match Picture::open(&self.pictures.folder, name, caption, self.reader) {
            Ok(picture) => generate::picture(&picture, writer, self.settings),
            Err(reason) => Ok(PictureResult::new(name, State::Unusable { reason })),
        }
    }
}

/// What is said of a picture is not said again of a copy of it: sets hold many files twice.
fn drop_copies(results: &mut [PictureResult], settings: &Settings) {
    let mut first: HashMap<String, usize> = HashMap::new();
    for i in 0..results.len() {
        if results[i].hash.is_empty() {
            continue;
        }
        let original = *first.entry(results[i].hash.clone()).or_insert(i);
        if original == i {
            continue;
        }
        let (before, rest) = results.split_at_mut(i);
        let (original, copy) = (&before[original], &mut rest[0]);
        let again = |step: &str, text: String| {
            let broken = Broken {
                reason: Reason::Duplicate,
                detail: format!("{} is the same picture and has it", original.name),
            };
            rejection(step, 1, broken, text)
        };
        if let Some(caption) = copy
            .caption
            .take_if(|own| original.caption.as_ref() == Some(own))
        {
            copy.rejected.push(again("caption", caption));
        }
        let size = (copy.width, copy.height);
        let evidence = Evidence::of_page(&copy.lines, size, copy.human_caption.as_deref());
        let rules = &settings.rules;
        let is_new = |duo: &Duo| rules.is_new(duo, &original.duos, &evidence).is_ok();
        let (kept, dropped): (Vec<Duo>, Vec<Duo>) = copy.duos.drain(..).partition(is_new);
        let dropped = dropped.iter().map(|duo| duo.texts().join(" | "));
        copy.rejected
            .extend(dropped.map(|text| again("duos", text)));
        copy.duos = kept;
    }
}

struct Shared {
    results: Vec<PictureResult>,
    view: View,
    halt: Option<Halt>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops all threads after what they are at; an error outweighs a stop.
fn halt(shared: &Mutex<Shared>, halted: &AtomicBool, reason: Halt) {
    halted.store(true, Relaxed);
    let mut shared = lock(shared);
    if shared.halt.is_none() || matches!(reason, Halt::Error(_)) {
        shared.halt = Some(reason);
    }
}
