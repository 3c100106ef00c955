//! The program as a user runs it, and a very small model and data set to run it on.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use llavar_assistant::testing;
use llavar_data::tokenizer::{BpeOptions, train_bpe};
use llavar_model::LlavaModel;
use serde_json::Value;

/// No command of these tests needs as long; one that does hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) command: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// The command did what it should; gives stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self.out
    }

    /// One clear error: the exit code, every one of `words` on stderr, no trace of a panic, no result.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in {self:#?}");
        }
        let errors = self.err.lines().filter(|l| l.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{self:#?}");
        for bug in ["panicked", "fault inside the program", "RUST_BACKTRACE"] {
            assert!(!self.err.contains(bug), "{self:#?}");
        }
        assert_eq!(self.out, "", "{self:#?}");
        self
    }

    /// stdout as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// Waits for a command; ends it and fails when it hangs.
pub(crate) fn finish(command: String, mut child: Child) -> Run {
    fn all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8(bytes).expect("output is UTF-8")
        })
    }
    let out = all(child.stdout.take().unwrap());
    let err = all(child.stderr.take().unwrap());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("{command} does not end");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    Run {
        command,
        code: status.code(),
        out,
        err,
    }
}

/// A folder of its own for a test; goes when the test has passed.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
}

impl World {
    /// An empty one.
    pub(crate) fn empty(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    /// With `docs/` (10 synthetic documents) and `model/`.
    pub(crate) fn new(name: &str) -> Self {
        let world = Self::empty(name);
        world
            .run(
                &["data", "synth", "--out", "docs", "-n", "10"],
                &["--profile", "quickstart", "--seed", "5"],
            )
            .ok();
        let model = Self::tiny(300, Vec::new());
        world.save(&model, "model");
        world
    }

    /// As [`World::new`], with weights so large that answers depend on what is seen.
    pub(crate) fn that_sees(name: &str) -> Self {
        let world = Self::new(name);
        fs::remove_dir_all(world.path("model")).unwrap();
        let range = ("initializer_range".to_owned(), 0.3.into());
        world.save(&Self::tiny(300, vec![range]), "model");
        world
    }

    /// The architecture of `nano` at a fraction of its size.
    fn tiny(rows: usize, mut other: Vec<(String, Value)>) -> LlavaModel {
        let heads = [("num_attention_heads", 2), ("num_key_value_heads", 1)];
        other.extend(heads.map(|(key, value)| (key.to_owned(), value.into())));
        LlavaModel::init(testing::config(rows, other), 5).unwrap()
    }

    fn save(&self, model: &LlavaModel, name: &str) {
        let text = ["USER: what is the total ASSISTANT: the total is 7"; 4];
        let (tokenizer, config) = train_bpe(text.iter(), &BpeOptions::new(270)).unwrap();
        let files = self.path("tokenizer");
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("tokenizer.json"), tokenizer).unwrap();
        fs::write(files.join("tokenizer_config.json"), config).unwrap();
        model.save(&self.path(name), Some(&files)).unwrap();
        fs::remove_dir_all(&files).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A picture of the set, relative to the folder.
    pub(crate) fn picture(&self) -> String {
        let mut names: Vec<_> = fs::read_dir(self.path("docs/images"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        format!("docs/images/{}", names[0])
    }

    /// The records of the set.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("docs/data.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Writes a data set.
    pub(crate) fn write_records(&self, name: &str, records: &[Value]) {
        fs::write(self.path(name), serde_json::to_string(records).unwrap()).unwrap();
    }

    /// A copy of the model folder.
    pub(crate) fn copy_model(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(self.path("model")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    /// The program, to be started in the folder.
    pub(crate) fn command(&self, args: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llavar"));
        command
            .args(args)
            .args(more)
            .current_dir(&self.dir)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program.
    pub(crate) fn run(&self, args: &[&str], more: &[&str]) -> Run {
        self.run_with(args, more, "")
    }

    /// Runs the program on `input`.
    pub(crate) fn run_with(&self, args: &[&str], more: &[&str], input: &str) -> Run {
        let mut child = self.command(args, more).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The program may end without reading.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(format!("llavar {args:?} {more:?}"), child)
    }

    /// Runs the program from a shell, `set_up` first (limits, redirections).
    pub(crate) fn shell(&self, set_up: &str, args: &[&str], more: &[&str]) -> Run {
        let child = Command::new("sh")
            .args(["-c", set_up])
            .arg(env!("CARGO_BIN_EXE_llavar"))
            .args(args)
            .args(more)
            .current_dir(&self.dir)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        finish(format!("{set_up}: llavar {args:?} {more:?}"), child)
    }

    /// Asks a model about a picture.
    pub(crate) fn ask(&self, model: &str, image: &str) -> Run {
        self.run(
            &["ask", "--model", model, "--image", image, "what is it?"],
            &["--max-new-tokens", "3"],
        )
    }

    /// `llavar train` with a recipe for the tiny model; `more` comes last and wins.
    pub(crate) fn train_args(data: &str, out: &str, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = ["train", "--recipe", "nano-sft", "--out", out]
            .map(str::to_owned)
            .to_vec();
        let path = format!("data_path={data}");
        for set in [
            path.as_str(),
            "model_name_or_path=model",
            "image_folder=docs",
            "per_device_train_batch_size=2",
            "max_steps=3",
            "shuffle=false",
            "group_by_modality_length=false",
        ] {
            args.extend(["--set".to_owned(), set.to_owned()]);
        }
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }

    /// Trains the tiny model.
    pub(crate) fn train(&self, data: &str, out: &str, more: &[&str]) -> Run {
        let args = Self::train_args(data, out, more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.run(&args, &[])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The folder of shared data, where this machine has it.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LLAVAR_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    if path.is_dir() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
    None
}
