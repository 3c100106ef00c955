//! `Launch`: a command line of the original scripts as a recipe.
//!
//! Flags keep the meaning and the defaults that they have there; whatever does nothing here is named with the
//! reason. Only what the original computes counts: its own slips (labels that start early, means of micro-batch
//! means) are switches of the recipe and stay off.

mod deepspeed;
mod shell;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use llavar_model::Parts;

use super::{Problem, Recipe};
use crate::TrainError;
use table::{Effect, Flag, Kind};

/// Something that a person who knows the original should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The flag, or a key of the DeepSpeed file.
    pub flag: String,
    /// Its value.
    pub value: String,
    /// Why it has no effect, or what is different.
    pub why: String,
}

impl Note {
    fn new(flag: impl Into<String>, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            flag: flag.into(),
            value: value.into(),
            why: why.into(),
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let space = if self.value.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}: {}", self.flag, self.value, self.why)
    }
}

/// A recipe and what else the command line said.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// What the run computes.
    pub recipe: Recipe,
    /// `--output_dir`.
    pub output_dir: Option<PathBuf>,
    /// `--resume_from_checkpoint`, where it names one or asks for the newest (`auto`).
    pub resume: Option<String>,
    /// Flags without effect, and differences.
    pub notes: Vec<Note>,
}

impl Launch {
    /// Reads a shell script that holds one training command.
    ///
    /// # Errors
    /// [`TrainError::Io`]; [`TrainError::Recipe`] with everything that is wrong.
    pub fn from_script(path: &Path, sets: &[String]) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        let origin = path.display().to_string();
        let fail = |problem: Problem| TrainError::Recipe {
            origin: origin.clone(),
            problems: vec![problem],
        };
        let commands = shell::commands(&text)
            .map_err(|e| fail(Problem::new(&format!("line {}", e.line), "", e.reason)))?;
        let mut trainings = commands.iter().filter(|words| has_flags(words));
        let (Some(words), others) = (trainings.next(), trainings.count()) else {
            return Err(fail(Problem::new(
                "the script",
                "no command with --model_name_or_path",
                "one training command",
            )));
        };
        if others > 0 {
            return Err(fail(Problem::new(
                "the script",
                format!("{} training commands", others + 1),
                "one training command: a recipe is one stage",
            )));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::read(&origin, words, sets, &[PathBuf::new(), folder])
    }

    /// Reads the words of a command line, with or without what starts it (`deepspeed train_mem.py ..`).
    ///
    /// # Errors
    /// [`TrainError::Recipe`] with everything that is wrong.
    pub fn from_words(words: &[String], sets: &[String]) -> Result<Self, TrainError> {
        Self::read("of the launch flags", words, sets, &[PathBuf::new()])
    }

    fn read(
        origin: &str,
        words: &[String],
        sets: &[String],
        folders: &[PathBuf],
    ) -> Result<Self, TrainError> {
        let (launcher, flags) = split_launcher(words);
        let mut reader = Reader {
            values: Vec::new(),
            notes: Vec::new(),
            problems: Vec::new(),
        };
        if !launcher.is_empty() {
            reader.notes.push(Note::new(
                launcher.join(" "),
                "",
                "starts the original; several ranks here: torchrun --no-python, srun or mpirun before `llavar train`",
            ));
        }
        reader.flags(flags);
        let (text, output_dir, resume) = reader.recipe(folders);
        let recipe = Recipe::from_toml(origin, &text, sets);
        let mut problems = reader.problems;
        match recipe {
            Ok(recipe) if problems.is_empty() => Ok(Self {
                recipe,
                output_dir,
                resume,
                notes: reader.notes,
            }),
            Ok(_) => Err(TrainError::Recipe {
                origin: origin.to_owned(),
                problems,
            }),
            Err(TrainError::Recipe { problems: more, .. }) => {
                problems.extend(more.into_iter().map(|mut problem| {
                    if let Some(flag) = table::of_key(&problem.key) {
                        problem.key = format!("--{flag}");
                    }
                    problem
                }));
                Err(TrainError::Recipe {
                    origin: origin.to_owned(),
                    problems,
                })
            }
            Err(other) => Err(other),
        }
    }
}

fn has_flags(words: &[String]) -> bool {
    words
        .iter()
        .any(|w| w.starts_with("--model_name_or_path") || w.starts_with("--model-name-or-path"))
}

/// What stands before the script's flags: launcher, its own flags, the script.
fn split_launcher(words: &[String]) -> (&[String], &[String]) {
    let script = words.iter().position(|word| word.ends_with(".py"));
    // `python -m llava.train.train_mem`
    let module = words.iter().position(|word| word == "-m").map(|at| at + 1);
    let end = script.or(module).map_or(0, |at| (at + 1).min(words.len()));
    words.split_at(end)
}

/// Flags with their values, the last of a name winning.
struct Reader {
    values: Vec<(&'static Flag, String)>,
    notes: Vec<Note>,
    problems: Vec<Problem>,
}

impl Reader {
    fn flags(&mut self, words: &[String]) {
        let mut rest = words.iter().peekable();
        while let Some(word) = rest.next() {
            let Some(body) = word.strip_prefix("--").filter(|body| !body.is_empty()) else {
                self.problems
                    .push(Problem::new(word, "no flag", "--FLAG VALUE"));
                continue;
            };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let mut values: Vec<String> = inline.into_iter().collect();
            if values.is_empty() {
                // A number may be negative; another flag never looks like one.
                while let Some(value) = rest.next_if(|w| !w.starts_with("--")) {
                    values.push(value.clone());
                }
            }
            // transformers also have `--no_FLAG` for flags that are true by default.
            let negated = name
                .strip_prefix("no_")
                .or_else(|| name.strip_prefix("no-"))
                .filter(|_| table::find(name).is_none() && values.is_empty());
            match (table::find(name), negated.and_then(table::find)) {
                (Some(flag), _) => self.flag(flag, values),
                (None, Some(flag)) if flag.kind == Kind::Bool => {
                    self.flag(flag, vec!["False".into()]);
                }
                _ => self.problems.push(Problem::unknown(
                    &format!("--{name}"),
                    &format!("--{}", table::nearest(name)),
                )),
            }
        }
    }

    /// One flag with its words.
    fn flag(&mut self, flag: &'static Flag, values: Vec<String>) {
        let shown = values.join(" ");
        let mut wrong = |allowed: String| {
            let given = if shown.is_empty() { "nothing" } else { &shown };
            self.problems
                .push(Problem::new(&format!("--{}", flag.name), given, allowed));
        };
        let one = match values.as_slice() {
            [] if flag.kind == Kind::Bool => "true",
            [one] => one.as_str(),
            [_, ..] if flag.kind == Kind::Words => shown.as_str(),
            [] => return wrong("a value".into()),
            _ => return wrong("one value".into()),
        };
        let value = match flag.kind {
            Kind::Text | Kind::Words => one.to_owned(),
            Kind::Word(allowed) => match allowed.contains(&one) {
                true => one.to_owned(),
                false => return wrong(allowed.join(", ")),
            },
            Kind::Bool => match one.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "1" => "true".into(),
                "false" | "f" | "no" | "n" | "0" => "false".into(),
                _ => return wrong("True or False".into()),
            },
            Kind::Whole(least) => match one.parse::<i64>() {
                Ok(value) if value >= least => value.to_string(),
                _ => return wrong(format!("a whole number, {least} or above")),
            },
            Kind::Number(least) => match one.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= least => format!("{value:?}"),
                _ => return wrong(format!("a number, {least} or above")),
            },
        };
        match flag.effect {
            Effect::Key(_) | Effect::Own => {}
            Effect::Nothing(why) => self.note(flag, one, why),
            Effect::Must(only, why) => {
                let equal = match (value.parse::<f64>(), only.parse::<f64>()) {
                    (Ok(a), Ok(b)) => a == b,
                    _ => value == only,
                };
                match equal {
                    true => self.note(flag, one, "that is how it is here"),
                    false => wrong(format!("{only} ({why})")),
                }
            }
        }
        self.values.retain(|(other, _)| other.name != flag.name);
        self.values.push((flag, value));
    }

    fn note(&mut self, flag: &Flag, value: &str, why: &str) {
        self.notes
            .push(Note::new(format!("--{}", flag.name), value, why));
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(flag, _)| flag.name == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The recipe as TOML, the run folder, and what to resume from.
    fn recipe(&mut self, folders: &[PathBuf]) -> (String, Option<PathBuf>, Option<String>) {
        let mut keys = Keys::of_the_original();
        for (flag, value) in &self.values {
            if let Effect::Key(key) = flag.effect {
                keys.set(key, literal(flag.kind, value));
            }
        }
        self.model(&mut keys);
        self.towers(&mut keys);
        self.steps(&mut keys);
        self.saving(&mut keys);
        self.deepspeed(&mut keys, folders);
        let output_dir = self.value("output_dir").map(PathBuf::from);
        let resume = self.value("resume_from_checkpoint").and_then(|value| {
            match value.to_ascii_lowercase().as_str() {
                "true" => Some("auto".to_owned()),
                "false" | "none" => None,
                _ => Some(value.to_owned()),
            }
        });
        (keys.toml(), output_dir, resume)
    }

    /// Stage, what is frozen, adapters and quantised weights.
    fn model(&mut self, keys: &mut Keys) {
        let pretrain = self.is("tune_mm_mlp_adapter");
        let freeze_vision = self.value("freeze_vision") != Some("false");
        keys.set(
            "train.stage",
            text(if pretrain { "pretrain" } else { "sft" }),
        );
        keys.set("model.freeze_vision", freeze_vision.to_string());
        let mut freeze = Vec::new();
        if freeze_vision && !pretrain {
            freeze.push("model.vision_tower.*vision_tower.*");
        }
        if self.is("freeze_backbone") {
            freeze.extend(["model.embed_tokens.*", "model.layers.*", "model.norm.*"]);
        }
        if self.is("freeze_mm_mlp_adapter") {
            freeze.push("model.mm_projector.*");
        }
        if !freeze.is_empty() {
            let list: Vec<String> = freeze.into_iter().map(text).collect();
            keys.set("train.freeze", format!("[{}]", list.join(", ")));
        }
        if self.value("version").is_none() {
            self.problems.push(Problem::new(
                "--version",
                "not given",
                "the conversation template: plain, v1, llava_v1, phi3_instruct, llama3 (the original's default, v0, \
                 is not one of them)",
            ));
        }
        if self.value("model_name_or_path").is_none() {
            self.problems.push(Problem::new(
                "--model_name_or_path",
                "not given",
                "the folder of the model to start from",
            ));
        }
    }

    /// The towers, which matter where the model is a plain language model on this machine; a model folder has them.
    fn towers(&mut self, keys: &mut Keys) {
        let model = self.value("model_name_or_path").map(Path::new);
        let plain = model.is_some_and(|folder| Parts::is_plain(folder).unwrap_or(false));
        for (name, key, what) in [
            (
                "vision_tower",
                "model.vision_tower",
                "the folder or weight file of a CLIP of transformers",
            ),
            (
                "vision_tower_slow",
                "model.vision_tower_slow",
                "the folder or weight file of a ConvNeXt of timm or open_clip",
            ),
        ] {
            let given = self.values.iter().find(|(flag, _)| flag.name == name);
            let Some(&(flag, ref value)) = given else {
                continue;
            };
            let value = value.clone();
            match (plain, Path::new(&value).exists()) {
                (false, _) => self.note(flag, &value, table::IN_FOLDER),
                (true, true) => keys.set(key, text(&value)),
                (true, false) => self.problems.push(Problem::new(
                    &format!("--{name}"),
                    value,
                    format!(
                        "{what} on this machine: --model_name_or_path is a plain language model"
                    ),
                )),
            }
        }
    }

    fn steps(&mut self, keys: &mut Keys) {
        if let Some(epochs) = self
            .value("num_train_epochs")
            .and_then(|v| v.parse::<f64>().ok())
        {
            match epochs.fract() == 0.0 && epochs >= 1.0 {
                true => keys.set("train.num_train_epochs", format!("{epochs:.0}")),
                false => self.problems.push(Problem::new(
                    "--num_train_epochs",
                    epochs,
                    "a whole number, 1 or above (--max_steps ends a run in the middle of an epoch)",
                )),
            }
        }
        if let Some(steps) = self.value("max_steps").filter(|v| !v.starts_with('-')) {
            keys.set("train.max_steps", steps.to_owned());
        }
        let f32_only = self.value("bf16") != Some("true") && self.value("fp16") != Some("true");
        if self.is("fp16") {
            self.notes.push(Note::new(
                "--fp16",
                "True",
                "there is no fp16 training; bf16 needs no loss scale and is what a GPU gets",
            ));
        }
        if f32_only {
            keys.set("train.precision", text("f32"));
        }
        if self.is("no_cuda") || self.is("use_cpu") {
            keys.set("train.device", text("cpu"));
        }
        self.adapters(keys);
    }

    /// LoRA and weights of 4 bits; their settings do nothing without the switch.
    fn adapters(&mut self, keys: &mut Keys) {
        const LORA: &str = "matters with --lora_enable True alone";
        const BITS: &str = "matters for quantised weights alone (--bits 4)";
        let lora = self.is("lora_enable");
        if lora {
            keys.set("lora.lora_enable", "true".into());
        }
        let coded = self.value("bits") == Some("4");
        if let Some(bits) = self.value("bits").map(str::to_owned) {
            keys.set("lora.bits", bits);
        }
        for (name, key, on, why) in [
            ("lora_r", "lora.lora_r", lora, LORA),
            ("lora_alpha", "lora.lora_alpha", lora, LORA),
            ("lora_dropout", "lora.lora_dropout", lora, LORA),
            ("double_quant", "lora.double_quant", coded, BITS),
            ("quant_type", "lora.quant_type", coded, BITS),
        ] {
            let Some(value) = self.value(name).map(str::to_owned) else {
                continue;
            };
            match on {
                true if name == "quant_type" => keys.set(key, text(&value)),
                true => keys.set(key, value),
                false => self.notes.push(Note::new(format!("--{name}"), value, why)),
            }
        }
    }

    fn saving(&mut self, keys: &mut Keys) {
        match self.value("save_strategy") {
            Some("no") => keys.set("train.save_steps", "0".into()),
            Some("epoch") => {
                keys.set("train.save_steps", "0".into());
                self.notes.push(Note::new(
                    "--save_strategy",
                    "epoch",
                    "saved at the end and when interrupted; --save_steps N saves in between",
                ));
            }
            _ => {}
        }
        if let Some(limit) = self.value("save_total_limit") {
            // transformers take everything below 1 as no limit.
            keys.set(
                "train.save_total_limit",
                limit.trim_start_matches('-').to_owned(),
            );
            if limit.starts_with('-') {
                keys.set("train.save_total_limit", "0".into());
            }
        }
        if let Some(metric) = self.value("metric_for_best_model") {
            keys.set("train.metric_for_best_model", text(metric));
        }
    }

    fn deepspeed(&mut self, keys: &mut Keys, folders: &[PathBuf]) {
        let mut clip = self.value("max_grad_norm").map(str::to_owned);
        if let Some(name) = self.value("deepspeed").map(str::to_owned) {
            match deepspeed::read(&name, folders) {
                Ok(found) => {
                    self.notes.extend(found.notes);
                    keys.set("train.zero_stage", found.stage.to_string());
                    if let Some(value) = found.clip {
                        clip = Some(format!("{value:?}"));
                    }
                    match found.bf16 {
                        Some(true) => keys.unset("train.precision"),
                        Some(false) if self.is("bf16") => self.problems.push(Problem::new(
                            "--bf16",
                            "True",
                            "False, as bf16.enabled of the DeepSpeed file is",
                        )),
                        _ => {}
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        if let Some(clip) = clip {
            keys.set("train.max_grad_norm", clip);
        }
    }
}

/// A value as TOML.
fn literal(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Bool | Kind::Whole(_) | Kind::Number(_) => value.to_owned(),
        Kind::Text | Kind::Word(_) | Kind::Words => text(value),
    }
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

/// Keys of the recipe that is being put together, in TOML's literals.
struct Keys(Vec<(&'static str, String)>);

impl Keys {
    /// What the original takes where a flag is not given, and a recipe would take something else.
    fn of_the_original() -> Self {
        let defaults = [
            ("train.learning_rate", "5e-5"),
            ("train.num_train_epochs", "3"),
            ("train.lr_scheduler_type", "\"linear\""),
            ("train.warmup_ratio", "0.0"),
            ("train.gradient_checkpointing", "false"),
            ("train.model_max_length", "512"),
            ("train.save_total_limit", "0"),
            ("data.dataloader_num_workers", "0"),
            ("log.logging_steps", "500"),
        ];
        Self(
            defaults
                .map(|(key, value)| (key, value.to_owned()))
                .to_vec(),
        )
    }

    fn unset(&mut self, key: &str) {
        self.0.retain(|(other, _)| *other != key);
    }

    fn set(&mut self, key: &'static str, value: String) {
        self.unset(key);
        self.0.push((key, value));
    }

    fn toml(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        lines.collect()
    }
}
