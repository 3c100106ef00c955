//! Label Studio's exports.

use llavar_image::ImageFormat;
use serde_json::Value;

use super::text_of;

/// Picture and caption of a task of the JSON export: all text areas of all annotations that were not
/// cancelled.
pub(super) fn task(record: &Value) -> Option<(String, String)> {
    let data = record.get("data")?;
    let annotations = record.get("annotations").or(record.get("completions"))?;
    let image = data.get("image").or_else(|| {
        // The picture's key is that of the project's labelling form.
        let values = data.as_object()?.values();
        values
            .into_iter()
            .find(|value| value.as_str().is_some_and(ImageFormat::is_named_so))
    })?;
    let mut texts: Vec<String> = Vec::new();
    for annotation in annotations.as_array()? {
        if annotation.get("was_cancelled") == Some(&Value::Bool(true)) {
            continue;
        }
        for result in annotation.get("result")?.as_array()? {
            if result.get("type").is_some_and(|kind| kind == "textarea")
                && let Some(text) = result.get("value").and_then(text_of)
                && !texts.contains(&text)
            {
                texts.push(text);
            }
        }
    }
    Some((image.as_str()?.to_owned(), texts.join("\n")))
}

/// The file behind one of its addresses: `/data/local-files/?d=a/b%20c.png` is `a/b c.png`,
/// `/data/upload/7/1a2b3c4d-b.png` is `b.png`, and an `http`, `s3` or `gs` address its path.
pub(super) fn file_name(address: &str) -> Option<String> {
    if let Some((_, path)) = address.split_once("/data/local-files/?d=") {
        return Some(percent_decoded(path));
    }
    if let Some((_, path)) = address.split_once("/data/upload/") {
        let name = percent_decoded(path.rsplit('/').next()?);
        // Uploads get eight digits and a dash in front.
        return match name.split_once('-') {
            Some((digits, rest))
                if digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()) =>
            {
                Some(rest.to_owned())
            }
            _ => Some(name),
        };
    }
    let (_, rest) = address.split_once("://")?;
    let path = rest.split(['?', '#']).next()?;
    Some(percent_decoded(path))
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(value) if *first == b'%' => {
                out.push(value);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
