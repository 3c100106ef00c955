//! The benchmarks that are known, and finding one by name.

use super::error::TaskError;
use super::task::{Draft, Request};
use super::{
    captions, chart_qa, doc_vqa, funsd, hybrid_instruct, info_vqa, ocrbench, split, sroie, st_vqa,
    text_vqa, words,
};

/// What is fixed about a benchmark.
pub(super) struct Benchmark {
    pub(super) name: &'static str,
    /// Other names, normalised.
    pub(super) aliases: &'static [&'static str],
    /// Whether an alias is a set of its own that is asked in the same way, and so names the task.
    pub(super) aliases_are_sets: bool,
    pub(super) metrics: &'static [&'static str],
    pub(super) prompt_suffix: &'static str,
    pub(super) max_new_tokens: usize,
    /// What is expected in the folder, for messages.
    pub(super) layout: &'static str,
    pub(super) read: fn(&Request) -> Result<Draft, TaskError>,
}

const PHRASE: &str = "\nAnswer the question using a single word or phrase.";
const WORD: &str = "\nAnswer the question with a single word.";
const CAPTION_METRICS: &[&str] = &["cider_d", "bleu_4", "meteor_exact_stem", "rouge_l"];

/// # Source
/// Suffixes and limits: the task files of lmms-eval; FUNSD, SROIE and word sets: MultimodalOCR (the
/// protocol of the LLaVAR papers), which asks without suffix.
static BENCHMARKS: [Benchmark; 11] = [
    Benchmark {
        name: "ocrbench",
        aliases: &["ocrbenchv1"],
        aliases_are_sets: false,
        metrics: &["ocrbench"],
        prompt_suffix: "",
        max_new_tokens: 128,
        layout: "OCRBench.json beside OCRBench_Images/",
        read: ocrbench::read,
    },
    Benchmark {
        name: "stvqa",
        aliases: &["scenetextvqa"],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "anls"],
        prompt_suffix: PHRASE,
        max_new_tokens: 32,
        layout: "train_task_3.json or test_task_3.json with the image folders beside it",
        read: st_vqa::read,
    },
    Benchmark {
        name: "textvqa",
        aliases: &[],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "textvqa_m4c"],
        prompt_suffix: PHRASE,
        max_new_tokens: 32,
        layout: "TextVQA_0.5.1_val.json with train_images/ beside it",
        read: text_vqa::read,
    },
    Benchmark {
        name: "docvqa",
        aliases: &["spdocvqa"],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "anls"],
        prompt_suffix: PHRASE,
        max_new_tokens: 32,
        layout: "val_v1.0.json (or _withQT) with documents/ beside it",
        read: doc_vqa::read,
    },
    Benchmark {
        name: "chartqa",
        aliases: &["chartqadataset"],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "chartqa_relaxed"],
        prompt_suffix: WORD,
        max_new_tokens: 16,
        layout: "test/test_human.json and test/test_augmented.json with test/png/",
        read: chart_qa::read,
    },
    Benchmark {
        name: "infovqa",
        aliases: &["infographicvqa", "infographicsvqa"],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "anls"],
        prompt_suffix: PHRASE,
        max_new_tokens: 32,
        layout: "infographicsVQA_val_v1.0.json (or _withQT) with infographicsvqa_images/ beside it",
        read: info_vqa::read,
    },
    Benchmark {
        name: "funsd",
        aliases: &[],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "anls"],
        prompt_suffix: "",
        max_new_tokens: 128,
        layout: "testing_data/annotations/*.json and testing_data/images/",
        read: funsd::read,
    },
    Benchmark {
        name: "sroie",
        aliases: &["sroie2019"],
        aliases_are_sets: false,
        metrics: &["multimodal_ocr_vqa", "anls"],
        prompt_suffix: "",
        max_new_tokens: 128,
        layout: "test/entities/*.txt and test/img/ (or train/), or X.txt beside X.jpg",
        read: sroie::read,
    },
    Benchmark {
        name: "words",
        aliases: words::SETS,
        aliases_are_sets: true,
        metrics: &["multimodal_ocr_recognition"],
        prompt_suffix: "",
        max_new_tokens: 128,
        layout: "test.jsonl, test_label.txt or gt.txt with the pictures it names",
        read: words::read,
    },
    Benchmark {
        name: "hybrid_instruct",
        aliases: &["hybridinstructtest", "llavar2vqa", "vqatest"],
        aliases_are_sets: false,
        metrics: &[
            "multimodal_ocr_vqa",
            "anls",
            "token_f1",
            "rouge_l",
            "bleu_4",
            "cider_d",
        ],
        prompt_suffix: "",
        max_new_tokens: 1024,
        layout: "vqa_test.json (LLaVA JSON) with LLaVAR-2_img/ beside it",
        read: hybrid_instruct::read,
    },
    Benchmark {
        name: "captions",
        aliases: &["caption", "cococaptions", "cococap", "textcaps", "trinscap"],
        aliases_are_sets: false,
        metrics: CAPTION_METRICS,
        prompt_suffix: "",
        max_new_tokens: 512,
        layout: "COCO (captions_val2014.json), TextCaps (TextCaps_0.1_val.json), or LLaVA JSON / JSONL captions",
        read: captions::read,
    },
];

/// Names of all benchmarks, in the order of the published table. `words` also goes by the name of its
/// set: `iiit5k`, `svt`, `svtp`, `ct80`, `ic13`, `ic15`, `cocotext`, `ctw`, `totaltext`, `host`, `wost`,
/// `wordart`.
pub fn task_names() -> Vec<&'static str> {
    BENCHMARKS.iter().map(|benchmark| benchmark.name).collect()
}

/// What is fixed about a benchmark, for lists.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct TaskInfo {
    /// Name.
    pub name: &'static str,
    /// Other names, in lower case without `-` and `_`.
    pub aliases: &'static [&'static str],
    /// Names of the default metrics.
    pub metrics: &'static [&'static str],
    /// Text after every question.
    pub prompt_suffix: &'static str,
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// What is looked for in the folder.
    pub layout: &'static str,
}

impl TaskInfo {
    fn of(benchmark: &Benchmark) -> Self {
        Self {
            name: benchmark.name,
            aliases: benchmark.aliases,
            metrics: benchmark.metrics,
            prompt_suffix: benchmark.prompt_suffix,
            max_new_tokens: benchmark.max_new_tokens,
            layout: benchmark.layout,
        }
    }
}

/// All benchmarks, in the order of [`task_names`].
pub fn task_infos() -> Vec<TaskInfo> {
    BENCHMARKS.iter().map(TaskInfo::of).collect()
}

/// The benchmark of a name or alias, with or without a split.
///
/// # Errors
/// [`TaskError::UnknownTask`] with the nearest names.
pub fn task_info(name: &str) -> Result<TaskInfo, TaskError> {
    Ok(TaskInfo::of(find(name)?.0))
}

/// Lower case without spaces, `-` and `_`.
pub(super) fn normalise(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

/// The benchmark of a name, and the split that the name ends in (`docvqa_val`), if any.
pub(super) fn find(name: &str) -> Result<(&'static Benchmark, Option<String>), TaskError> {
    let by_name = |wanted: &str| {
        BENCHMARKS.iter().find(|benchmark| {
            normalise(benchmark.name) == wanted || benchmark.aliases.contains(&wanted)
        })
    };
    if let Some(benchmark) = by_name(&normalise(name)) {
        return Ok((benchmark, None));
    }
    if let Some((head, tail)) = name.rsplit_once(['_', '-', ':', '/']) {
        let split = split::canonical(tail);
        if ["train", "val", "test"].contains(&split.as_str())
            && let Some(benchmark) = by_name(&normalise(head))
        {
            return Ok((benchmark, Some(split)));
        }
    }
    Err(unknown(name))
}

fn unknown(name: &str) -> TaskError {
    let wanted = normalise(name);
    let mut ranked: Vec<(f64, &'static str)> = Vec::new();
    for benchmark in &BENCHMARKS {
        let aliases = benchmark.aliases.iter().copied();
        for known in aliases.chain([benchmark.name]) {
            let shown = if benchmark.aliases_are_sets {
                known
            } else {
                benchmark.name
            };
            ranked.push((strsim::jaro_winkler(&normalise(known), &wanted), shown));
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut nearest: Vec<&'static str> = Vec::new();
    for (_, name) in ranked {
        if nearest.len() < 2 && !nearest.contains(&name) {
            nearest.push(name);
        }
    }
    TaskError::UnknownTask {
        name: name.to_string(),
        nearest,
        known: task_names(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_splits_are_found() {
        for (given, name, split) in [
            ("OCRBench", "ocrbench", None),
            ("ST-VQA", "stvqa", None),
            ("docvqa_val", "docvqa", Some("val")),
            ("sroie:train", "sroie", Some("train")),
            ("ChartQA Dataset", "chartqa", None),
            ("IIIT5K", "words", None),
            ("Hybrid-Instruct", "hybrid_instruct", None),
            ("hybrid_instruct_test", "hybrid_instruct", None),
            ("TextVQA-validation", "textvqa", Some("val")),
        ] {
            let (benchmark, found) = find(given).unwrap();
            assert_eq!((benchmark.name, found.as_deref()), (name, split), "{given}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        for (given, nearest) in [
            ("docvq", "docvqa"),
            ("chart", "chartqa"),
            ("srooie", "sroie"),
            ("iiit5", "iiit5k"),
        ] {
            let TaskError::UnknownTask {
                nearest: found,
                known,
                ..
            } = find(given).err().unwrap()
            else {
                panic!("{given}");
            };
            assert_eq!(
                (found[0], known.len()),
                (nearest, BENCHMARKS.len()),
                "{given}"
            );
        }
        let text = find("").err().unwrap().to_string();
        assert!(
            text.contains("unknown task \"\"") && text.contains("ocrbench"),
            "{text}"
        );
    }
}
