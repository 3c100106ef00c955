//! The parts of a message, and pictures in data URLs.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;

use super::{
    ApiError,
    fields::{shown, wrong},
};

/// A picture of a request, still as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PictureUrl {
    /// Where it stands, as `messages[0].content[1].image_url`.
    pub(crate) place: String,
    url: String,
}

/// With or without padding: both are sent.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl PictureUrl {
    /// The bytes of the file.
    pub(crate) fn file(&self) -> Result<Vec<u8>, ApiError> {
        let bad = |message: &str| {
            let message = format!("{}: {message}", self.place);
            Err(ApiError::field(&self.place, message).code("invalid_image_url"))
        };
        // Letters of a scheme are of either case; what follows may be megabytes.
        let scheme = self.url.split_once(':').map(|(scheme, _)| scheme);
        match scheme.map(str::to_ascii_lowercase).as_deref() {
            Some("data") => {}
            Some("http" | "https") => {
                return bad(
                    "pictures are not fetched from addresses here; send the picture itself as a data URL \
                     (data:image/png;base64,...)",
                );
            }
            _ => return bad("a picture is sent as a data URL (data:image/png;base64,...)"),
        }
        let Some((kind, data)) = self.url.split_once(',') else {
            return bad("the data URL has no comma before its data");
        };
        if !kind.to_ascii_lowercase().ends_with(";base64") {
            return bad("the data URL is not in base64 (data:image/png;base64,...)");
        }
        // Line breaks come from tools that wrap base64, `%2B` from those that know that this is an address.
        let plain = |byte: u8| byte != b'%' && !byte.is_ascii_whitespace();
        let decoded = match data.bytes().all(plain) {
            true => BASE64.decode(data),
            false => BASE64.decode(unescaped(data)),
        };
        match decoded {
            Ok(bytes) if bytes.is_empty() => bad("the data URL holds no data"),
            Ok(bytes) => Ok(bytes),
            Err(error) => bad(&format!("the data URL is no base64: {error}")),
        }
    }
}

/// With the bytes that `%2B` and the like stand for, and without white space, which may be written so too.
fn unescaped(data: &str) -> Vec<u8> {
    let mut bytes = data.bytes();
    let mut all = Vec::with_capacity(data.len());
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (byte, digit(rest.next()), digit(rest.next())) {
            (b'%', Some(high), Some(low)) => {
                all.push((16 * high + low) as u8);
                bytes = rest;
            }
            _ => all.push(byte),
        }
    }
    all.retain(|byte| !byte.is_ascii_whitespace());
    all
}

/// Text and pictures of a message; texts are joined by line breaks.
pub(super) fn parts(
    content: Value,
    place: &str,
    pictures: &mut Vec<PictureUrl>,
) -> Result<String, ApiError> {
    let list = match content {
        Value::String(text) => return Ok(text),
        Value::Array(list) => list,
        other => return Err(wrong(place, "a text or a list of parts", &other)),
    };
    let mut texts: Vec<String> = Vec::new();
    for (number, mut part) in list.into_iter().enumerate() {
        let place = format!("{place}[{number}]");
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "text" => match part.get_mut("text").map(Value::take) {
                Some(Value::String(text)) => texts.push(text),
                other => {
                    let other = other.unwrap_or(Value::Null);
                    return Err(wrong(&format!("{place}.text"), "a text", &other));
                }
            },
            "image_url" => {
                let place = format!("{place}.image_url");
                let url = match part.get_mut("image_url").map(Value::take) {
                    Some(Value::String(url)) => Some(url),
                    Some(Value::Object(mut object)) => match object.get_mut("url").map(Value::take)
                    {
                        Some(Value::String(url)) => Some(url),
                        _ => None,
                    },
                    _ => None,
                };
                let Some(url) = url else {
                    let message = format!("`{place}` has to be {{\"url\": \"data:image/...\"}}");
                    return Err(ApiError::field(place, message).code("invalid_value"));
                };
                pictures.push(PictureUrl { place, url });
            }
            _ => {
                let message = format!(
                    "`{place}.type` is {}; there are `text` and `image_url`",
                    shown(part.get("type").unwrap_or(&Value::Null))
                );
                return Err(ApiError::field(place, message).code("invalid_value"));
            }
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(url: &str) -> Result<Vec<u8>, String> {
        let place = "messages[0].content[0].image_url".to_owned();
        let url = url.to_owned();
        PictureUrl { place, url }.file().map_err(|e| e.message)
    }

    #[test]
    fn data_urls_as_they_are_sent() {
        for url in [
            "data:image/png;base64,cG5nIQ==",
            "DATA:image/png;BASE64,cG5nIQ",
            "data:;base64,cG5n\r\nIQ==\n",
            "data:;base64,cG5nIQ%3d%3D",
            "data:;base64,%63G5%6eIQ",
            "data:;base64,cG5n%0D%0AIQ==%20",
            "data:image/png;charset=x;base64,cG5nIQ==",
        ] {
            assert_eq!(file(url).unwrap(), b"png!", "{url}");
        }
        for (url, said) in [
            ("data:;base64,cG5nIQ%3", "no base64"),
            ("data:;base64,cG5nIQ%zz", "no base64"),
            ("https://example.org/a.png", "data URL"),
            ("http://169.254.169.254/latest", "not fetched"),
            ("file:///etc/passwd", "data URL"),
            ("/etc/passwd", "data URL"),
            ("", "data URL"),
            ("data:image/png;base64", "no comma"),
            ("data:image/png,abc", "not in base64"),
            ("data:image/png;base64,", "no data"),
            ("data:image/png;base64,é", "no base64"),
            ("data:image/png;base64,cG5n*Q==", "no base64"),
        ] {
            let error = file(url).unwrap_err();
            assert!(error.contains(said), "{url}: {error}");
            assert!(error.starts_with("messages[0].content[0].image_url"));
        }
    }
}
