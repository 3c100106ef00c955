//! Names and shapes: what is accepted, and that everything else is named.

use std::path::Path;

use super::{folders, shared};
use crate::{
    config::{ModelConfig, Parameter, Preset, parameters, projector_parameters},
    weights::{
        Dtype, FolderWriter, Role, SaveOptions, Source, TensorSpec, WeightFiles, adapters_present,
        match_parameters, write_safetensors,
    },
};

/// Writes a file in which every element of a tensor is its place in the list.
fn write(path: &Path, tensors: &[(String, Vec<usize>)]) -> WeightFiles {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(n, s)| TensorSpec::new(n.clone(), Dtype::F32, s.clone()))
        .collect();
    write_safetensors(path, &specs, None, |spec, sink| {
        let value = tensors.iter().position(|(n, _)| *n == spec.name).unwrap() as f32;
        sink.write_f32(&vec![value; spec.shape.iter().product()])
    })
    .unwrap();
    WeightFiles::open(path).unwrap()
}

/// A model of the full architecture with very small tensors.
fn tiny() -> ModelConfig {
    let nano = Preset::Nano.config(Some(8)).unwrap();
    let changes = serde_json::json!({
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "mm_hidden_size": 8,
        "clip_vision_config": {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 4,
            "intermediate_size": 8, "image_size": 112, "patch_size": 14},
        "convnext_config": {"dims": [2, 2, 2, 4], "depths": [1, 1, 1, 1]}
    });
    nano.with(changes.as_object().unwrap().clone()).unwrap()
}

fn pairs(list: &[Parameter]) -> Vec<(String, Vec<usize>)> {
    list.iter()
        .map(|p| (p.name.clone(), p.shape.clone()))
        .collect()
}

fn models(files: &WeightFiles) -> [Source<'_>; 1] {
    [Source {
        files,
        role: Role::Model,
    }]
}

#[test]
fn every_published_model_fits_its_configuration_and_is_written_back_byte_for_byte() {
    let test = "every_published_model_fits_its_configuration_and_is_written_back_byte_for_byte";
    let Some(parity) = shared(test) else { return };
    let mut seen = 0;
    for folder in folders(&parity) {
        if !folder.join("config.json").is_file() || !folder.join("model.safetensors").is_file() {
            continue;
        }
        let config = ModelConfig::read(&folder).unwrap();
        let files = WeightFiles::open(&folder).unwrap();
        let list = parameters(&config, adapters_present(&files));
        let tied = config.llm.tie_word_embeddings;
        let matched = match_parameters(&list, &models(&files), tied, |_| false)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert!(matched.missing(&list).is_empty());

        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("saved");
        let mut writer = FolderWriter::create(&target, SaveOptions::default()).unwrap();
        writer.write_config(&config).unwrap();
        writer.copy_companions(&folder).unwrap();
        let all: Vec<_> = matched
            .found
            .iter()
            .flatten()
            .chain(&matched.kept)
            .collect();
        let specs: Vec<TensorSpec> = all
            .iter()
            .map(|t| TensorSpec::new(t.name.clone(), t.dtype, t.shape))
            .collect();
        writer
            .write_weights(&specs, |spec, sink| {
                let located = all.iter().find(|t| t.name == spec.name).unwrap();
                sink.write(&located.bytes()?)
            })
            .unwrap();
        writer.finish().unwrap();
        let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
        let before = WeightFiles::open(&folder).unwrap();
        let after = WeightFiles::open(&target).unwrap();
        assert_eq!(before.entries().len(), after.entries().len());
        for entry in before.entries() {
            assert_eq!(
                before.bytes(&entry.name).unwrap(),
                after.bytes(&entry.name).unwrap()
            );
        }
        // Files of the format's own library come out identical; another writer's order may differ.
        if read(&folder, "model.safetensors").get(8..32) == Some(b"{\"__metadata__\":{\"format\"") {
            let same = read(&folder, "model.safetensors") == read(&target, "model.safetensors");
            assert!(same, "{}", folder.display());
        }
        assert_eq!(ModelConfig::read(&target).unwrap(), config);
        seen += 1;
    }
    assert!(seen > 0, "no model folder under parity");
}

#[test]
fn everything_wrong_is_in_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let list = parameters(&tiny(), true);
    let mut stored = pairs(&list);
    // Two missing, one extra, one of another shape, one given twice.
    let lost: Vec<String> = stored.drain(3..5).map(|(name, _)| name).collect();
    stored.push(("model.surplus.weight".to_owned(), vec![1]));
    let at = stored
        .iter()
        .position(|(n, _)| n == "model.norm.weight")
        .unwrap();
    stored[at].1 = vec![9];
    let scale = list
        .iter()
        .find(|p| p.name.ends_with("blocks.0.weight"))
        .unwrap();
    stored.push((scale.name.replace(".weight", ".gamma"), scale.shape.clone()));
    let files = write(&folder.path().join("model.safetensors"), &stored);
    let error = match_parameters(&list, &models(&files), false, |_| false)
        .unwrap_err()
        .to_string();
    for part in [
        "2 missing:",
        &lost[0],
        &lost[1],
        "1 unexpected:\n  model.surplus.weight",
        "1 of another shape:\n  model.norm.weight: expected [8], got [9]",
        "1 given twice:",
        "blocks.0.gamma",
        "model.safetensors do not fit",
    ] {
        assert!(error.contains(part), "{part} is not in:\n{error}");
    }
    let allowed = match_parameters(&list, &models(&files), false, |n| {
        lost.iter().any(|l| l == n)
    });
    assert!(!allowed.unwrap_err().to_string().contains("missing"));
}

#[test]
fn integers_are_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let spec = TensorSpec::new("model.norm.weight", Dtype::I64, [2]);
    write_safetensors(&path, &[spec], None, |_, sink| sink.write(&[0; 16])).unwrap();
    let files = WeightFiles::open(&path).unwrap();
    let list = [Parameter::new("model.norm.weight", [2])];
    let error = match_parameters(&list, &models(&files), false, |_| false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.norm.weight: expected a float type, got I64"),
        "{error}"
    );
}

#[test]
fn other_spellings_of_a_whole_model_fit() {
    let folder = tempfile::tempdir().unwrap();
    let list = parameters(&tiny(), true);
    let spellings: [fn(&str) -> String; 4] = [
        |n| n.strip_prefix("model.").unwrap_or(n).to_owned(),
        |n| format!("module.{n}"),
        |n| format!("model.{n}"),
        |n| {
            let scale = n.contains(".blocks.") && n.ends_with("blocks.0.weight");
            if scale {
                n.replace(".weight", ".gamma")
            } else {
                n.to_owned()
            }
        },
    ];
    for (k, spell) in spellings.iter().enumerate() {
        let stored: Vec<_> = list
            .iter()
            .map(|p| (spell(&p.name), p.shape.clone()))
            .collect();
        let files = write(&folder.path().join(format!("{k}.safetensors")), &stored);
        let matched = match_parameters(&list, &models(&files), false, |_| false).unwrap();
        for (i, found) in matched.found.iter().enumerate() {
            let found = found.as_ref().unwrap();
            assert_eq!(found.name, list[i].name);
            assert!(found.read_f32().unwrap().iter().all(|&v| v == i as f32));
        }
    }
}

#[test]
fn a_model_is_built_from_its_base_parts() {
    let folder = tempfile::tempdir().unwrap();
    let list = parameters(&tiny(), false);
    let fast = "model.vision_tower.fast_vision_tower.vision_tower.";
    let slow = "model.vision_tower.slow_vision_tower.vision_tower.";
    let part = |prefix: &str, new: &str| -> Vec<(String, Vec<usize>)> {
        let own = list.iter().filter(|p| p.name.starts_with(prefix));
        own.map(|p| (p.name.replace(prefix, new), p.shape.clone()))
            .collect()
    };
    let llm: Vec<_> = pairs(&list)
        .into_iter()
        .filter(|(n, _)| !n.contains("vision_tower") && !n.contains("mm_projector"))
        .collect();
    let mut clip = part(fast, "");
    clip.push((
        "text_model.embeddings.token_embedding.weight".to_owned(),
        vec![3, 3],
    ));
    clip.push(("logit_scale".to_owned(), vec![]));
    clip.push(("vision_model.post_layernorm.weight".to_owned(), vec![8]));
    let mut convnext = part(slow, "visual.trunk.");
    for (name, _) in convnext
        .iter_mut()
        .filter(|(n, _)| n.ends_with("blocks.0.weight"))
    {
        *name = name.replace(".weight", ".gamma");
    }
    convnext.push(("visual.trunk.head.norm.weight".to_owned(), vec![4]));
    convnext.push(("visual.head.mlp.fc1.weight".to_owned(), vec![4, 4]));
    convnext.push(("token_embedding.weight".to_owned(), vec![4, 4]));
    let llm = write(&folder.path().join("llm.safetensors"), &llm);
    let clip = write(&folder.path().join("clip.safetensors"), &clip);
    let convnext = write(&folder.path().join("convnext.safetensors"), &convnext);
    let sources = [
        Source {
            files: &llm,
            role: Role::Model,
        },
        Source {
            files: &clip,
            role: Role::Clip,
        },
        Source {
            files: &convnext,
            role: Role::ConvNext,
        },
    ];
    let fresh = |n: &str| n.contains("mm_projector") || n.contains("align_stages");
    let matched = match_parameters(&list, &sources, false, fresh).unwrap();
    let missing = matched.missing(&list);
    let projector = projector_parameters(&tiny());
    assert_eq!(missing.len(), projector.len());
    assert!(projector.iter().all(|p| missing.contains(&p.name.as_str())));
    let kept: Vec<&str> = matched.kept.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.contains(&format!("{fast}vision_model.post_layernorm.weight").as_str()));
    assert!(kept.contains(&format!("{slow}head.norm.weight").as_str()));

    // The stage-1 file completes it; the keys are full names, or begin at `mm_projector`.
    for short in [false, true] {
        let stored: Vec<_> = projector
            .iter()
            .map(|p| {
                (
                    if short {
                        p.name.replace("model.", "")
                    } else {
                        p.name.clone()
                    },
                    p.shape.clone(),
                )
            })
            .chain([(
                "model.vision_tower.slow_vision_tower.vision_tower.x".to_owned(),
                vec![1],
            )])
            .collect();
        let stage1 = write(&folder.path().join("mm_projector.safetensors"), &stored);
        let mut all = sources.to_vec();
        all.push(Source {
            files: &stage1,
            role: Role::Projector,
        });
        assert!(match_parameters(&list, &all, false, |_| false).is_ok());
    }
    // Half a projector is an error even where something else could fill the gap.
    let half = write(
        &folder.path().join("half.safetensors"),
        &pairs(&projector)[..1],
    );
    let full = write(&folder.path().join("full.safetensors"), &pairs(&list));
    let sources = [
        Source {
            files: &full,
            role: Role::Model,
        },
        Source {
            files: &half,
            role: Role::Projector,
        },
    ];
    let error = match_parameters(&list, &sources, false, |_| false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.mm_projector.2.weight (in "),
        "{error}"
    );
}

#[test]
fn a_tied_head_is_passed_over_and_an_untied_one_required() {
    let folder = tempfile::tempdir().unwrap();
    let untied = parameters(&tiny(), true);
    let tied = parameters(
        &tiny()
            .with([("tie_word_embeddings".to_owned(), true.into())])
            .unwrap(),
        true,
    );
    assert_eq!(untied.len(), tied.len() + 1);
    let files = write(&folder.path().join("a.safetensors"), &pairs(&untied));
    assert!(match_parameters(&tied, &models(&files), true, |_| false).is_ok());
    let files = write(&folder.path().join("b.safetensors"), &pairs(&tied));
    let error = match_parameters(&untied, &models(&files), false, |_| false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("1 missing:\n  lm_head.weight"), "{error}");
}
