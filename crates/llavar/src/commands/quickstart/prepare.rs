//! Data and untrained model of the quickstart.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use llavar_data::{Dataset, Role, Sample, TemplateName, write::write_llava_json};
use llavar_model::{
    LlavaModel,
    config::{Pathways, Preset},
};
use llavar_synth::{FactRecord, FontSet, ImageKind, Split, SynthConfig, WriteOptions, read_facts};
use serde_json::{Value, json};

use super::Question;
use crate::{
    commands::{
        data::{with_sets, write_synth},
        init,
    },
    failure::{Failure, Outcome},
    progress::note,
};

/// Everything that the two stages and the questions need.
pub(super) struct Prepared {
    /// Data of stage 1 (one round a picture).
    pub(super) pretrain: PathBuf,
    /// Data of stage 2.
    pub(super) train: PathBuf,
    /// Folder of the training pictures.
    pub(super) image_folder: PathBuf,
    /// Held-out questions.
    pub(super) questions: Vec<Question>,
    /// Number of training pictures.
    pub(super) training_pictures: usize,
    /// Number of held-out pictures.
    pub(super) held_out_pictures: usize,
    /// What the set is and what a good score on it does not show.
    pub(super) remarks: Vec<String>,
}

/// Draws the synthetic set: training and held-out documents of one profile.
pub(super) fn synthetic(
    pictures: u64,
    held_out: u64,
    seed: u64,
    sets: &[String],
    out: &Path,
) -> Outcome<Prepared> {
    let mut profile = with_sets(SynthConfig::profile("quickstart")?, sets)?;
    profile.seed = seed;
    let fonts = FontSet::embedded()?;
    let options = WriteOptions {
        images: ImageKind::Png,
        first: 0,
    };
    let folder = |name: &str| out.join("data").join(name);
    let (train, held) = (folder("train"), folder("held_out"));
    write_synth(
        &profile.clone().with_split(Split::Train),
        &fonts,
        pictures,
        &train,
        options,
    )?;
    let questions = self::held_out(&profile.clone().with_split(Split::HeldOut), held_out, &held)?;
    let printed = |folder: &Path| -> Outcome<HashSet<String>> {
        let set = Dataset::open(&folder.join("transcriptions.json"), None)?;
        set.iter()
            .map(|s| {
                Ok(s?
                    .conversations
                    .pop()
                    .map_or_else(String::new, |turn| turn.value))
            })
            .collect()
    };
    let seen = printed(&held)?.intersection(&printed(&train)?).count();
    let remarks = vec![
        format!(
            "{pictures} synthetic pictures ({}) were drawn for training and {held_out} others held out; {seen} of the held-out texts occur in training.",
            profile
                .kinds
                .iter()
                .map(|k| k.name().replace('_', " "))
                .collect::<Vec<_>>()
                .join(", "),
        ),
        format!(
            "The vocabulary is closed: {} words for each kind of fact, all of them seen in training in other combinations, so \
             a guess is right once in {}. A good score shows that the model looks at the picture and tells its words apart, \
             not that it reads any word.",
            profile.vocabulary, profile.vocabulary,
        ),
        "An answer counts as right when it contains the printed fact as whole words.".to_owned(),
    ];
    Ok(Prepared {
        pretrain: train.join("transcriptions.json"),
        train: train.join("data.json"),
        image_folder: train,
        questions,
        training_pictures: pictures as usize,
        held_out_pictures: held_out as usize,
        remarks,
    })
}

/// Draws `pictures` documents and gives the questions about them.
pub(super) fn held_out(
    profile: &SynthConfig,
    pictures: u64,
    folder: &Path,
) -> Outcome<Vec<Question>> {
    let options = WriteOptions {
        images: ImageKind::Png,
        first: 0,
    };
    write_synth(profile, &FontSet::embedded()?, pictures, folder, options)?;
    let facts = read_facts(&folder.join("facts.jsonl"))?;
    let question = |fact: FactRecord| Question {
        picture: folder.join(&fact.image),
        group: fact.field.replace('_', " "),
        id: fact.id,
        image: fact.image,
        question: fact.question,
        gold: fact.gold,
    };
    Ok(facts.into_iter().map(question).collect())
}

/// Splits the user's own set: every tenth sample is held out.
pub(super) fn own(data: &Path, images: &Path, out: &Path) -> Outcome<Prepared> {
    let set = Dataset::open(data, Some(images))?;
    let (mut train, mut pretrain, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    let (mut held, mut skipped) = (0, 0);
    for (index, sample) in set.iter().enumerate() {
        // One bad sample is reported, not fatal; text-only samples train stage 2.
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                note(format!("left out: {error}"));
                skipped += 1;
                continue;
            }
        };
        if index % 10 == 9 && !sample.images.is_empty() {
            held += 1;
            questions.extend(questions_of(&set, &sample)?);
        } else {
            pretrain.extend(first_round(&sample));
            train.push(sample);
        }
    }
    if train.is_empty() || questions.is_empty() {
        return Err(Failure::usage(format!(
            "{} has too few samples with images",
            data.display()
        ))
        .hint("at least 10 samples are needed, so that one can be held out"));
    }
    let folder = out.join("data");
    std::fs::create_dir_all(&folder).map_err(|error| Failure::write(&folder, &error))?;
    let (train_file, pretrain_file) = (folder.join("train.json"), folder.join("pretrain.json"));
    write_llava_json(&train_file, &train)?;
    write_llava_json(&pretrain_file, &pretrain)?;
    Ok(Prepared {
        pretrain: pretrain_file,
        train: train_file,
        image_folder: images.to_owned(),
        questions,
        training_pictures: train.iter().filter(|s| !s.images.is_empty()).count(),
        held_out_pictures: held,
        remarks: vec![
            format!(
                "{} of {} samples trained, {held} were held out (every tenth with a picture), {skipped} left out as broken.",
                train.len(),
                set.len()
            ),
            "A right answer contains the gold answer as whole words, so long gold answers rarely count.".to_owned(),
        ],
    })
}

/// Every question of a held-out sample, its answer as gold.
fn questions_of(set: &Dataset, sample: &Sample) -> Outcome<Vec<Question>> {
    let Some(image) = sample.images.first() else {
        return Ok(Vec::new());
    };
    let picture = set
        .image_path(image)
        .map_err(|error| Failure::new(crate::failure::Class::Data, error))?;
    let turns = sample
        .conversations
        .chunks_exact(2)
        .filter(|pair| pair[0].from == Role::Human);
    Ok(turns
        .map(|pair| Question {
            picture: picture.clone(),
            group: "question".into(),
            id: sample.id.to_string(),
            image: image.clone(),
            question: pair[0]
                .value
                .replace(llavar_data::IMAGE_TAG, "")
                .trim()
                .to_owned(),
            gold: pair[1].value.trim().trim_end_matches('.').to_owned(),
        })
        .collect())
}

/// The first round of a sample, as stage 1 takes it.
fn first_round(sample: &Sample) -> Option<Sample> {
    let mut first = sample.clone();
    first.conversations.truncate(2);
    let ok = first.images.len() == 1
        && first.conversations.len() == 2
        && first.conversations[0]
            .value
            .contains(llavar_data::IMAGE_TAG);
    ok.then_some(first)
}

/// An untrained model with a vocabulary of the training texts; returns it and its folder.
pub(super) fn model(set: &Prepared, seed: u64, out: &Path) -> Outcome<(LlavaModel, PathBuf)> {
    let files = [set.train.clone(), set.pretrain.clone()];
    let (tokenizer, config) = init::trained_tokenizer(&files, 640, TemplateName::Phi3Instruct)?;
    let shape = init::Shape {
        preset: Preset::Nano,
        pathways: Pathways::Both,
        changes: tiny(),
    };
    let model = init::build(shape, &tokenizer, &config, seed)?;
    let folder = out.join("untrained");
    init::save(&model, &tokenizer, &config, &folder)?;
    Ok((model, folder))
}

/// Smaller than the nano preset in every number: both paths see 128 px and give 4 x 4 positions, so that
/// a step takes a fraction of a second on two cores. A Phi-3, as the smallest published model is: its
/// conversation template is short, which counts where a prompt has no more tokens than this.
fn tiny() -> Vec<(String, Value)> {
    let keys = [
        ("architectures", json!(["LlavaPhiForCausalLM"])),
        ("model_type", json!("llava_phi")),
        ("input_image_size", json!(128)),
        ("num_hidden_layers", json!(4)),
        ("tokenizer_model_max_length", json!(512)),
        (
            "clip_vision_config",
            json!({
                "hidden_act": "quick_gelu", "hidden_size": 192, "image_size": 56, "intermediate_size": 768,
                "layer_norm_eps": 1e-5, "num_attention_heads": 3, "num_hidden_layers": 4, "patch_size": 14
            }),
        ),
        (
            "convnext_config",
            json!({
                "depths": [1, 1, 3, 1], "dims": [24, 48, 96, 192],
                "layer_scale_init_value": 0.1, "initializer": "fan_in"
            }),
        ),
    ];
    keys.map(|(key, value)| (key.to_owned(), value)).to_vec()
}
