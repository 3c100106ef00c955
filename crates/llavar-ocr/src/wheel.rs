//! Files out of a wheel, which is a zip archive.

use std::io::Read;

/// An entry may unpack to so many bytes.
const MOST_BYTES: u64 = 256 << 20;

/// Whether bytes begin as an archive does.
pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// File names without folders, and contents, of entries that are wanted.
pub(crate) fn entries(
    bytes: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, Vec<u8>)>, String> {
    let cut = || "the archive is damaged".to_owned();
    let number = |at: usize, size: usize| -> Result<usize, String> {
        let field = bytes.get(at..at.saturating_add(size)).ok_or_else(cut)?;
        Ok(field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    // The directory's place is written at the end, before a comment of up to 64 KiB.
    let from = bytes.len().saturating_sub(22 + 0xffff);
    let end = bytes[from..]
        .windows(4)
        .rposition(|w| w == b"PK\x05\x06")
        .map(|at| from + at)
        .ok_or_else(cut)?;
    let mut at = number(end + 16, 4)?;
    let mut found = Vec::new();
    for _ in 0..number(end + 10, 2)? {
        if bytes.get(at..at.saturating_add(4)) != Some(b"PK\x01\x02") {
            return Err(cut());
        }
        let (method, packed, full) = (
            number(at + 10, 2)?,
            number(at + 20, 4)?,
            number(at + 24, 4)?,
        );
        let (name, extra, comment) = (
            number(at + 28, 2)?,
            number(at + 30, 2)?,
            number(at + 32, 2)?,
        );
        let local = number(at + 42, 4)?;
        let path = bytes.get(at + 46..at + 46 + name).ok_or_else(cut)?;
        let path = String::from_utf8_lossy(path);
        let name = path.rsplit('/').next().unwrap_or_default();
        at += 46 + path.len() + extra + comment;
        if !wanted(name) {
            continue;
        }
        if full as u64 > MOST_BYTES {
            return Err(format!("{name} unpacks to {full} bytes"));
        }
        let data = local + 30 + number(local + 26, 2)? + number(local + 28, 2)?;
        let data = bytes
            .get(data..data.saturating_add(packed))
            .ok_or_else(cut)?;
        let content = match method {
            0 => data.to_vec(),
            8 => {
                let mut content = Vec::with_capacity(full);
                flate2::read::DeflateDecoder::new(data)
                    .take(full as u64 + 1)
                    .read_to_end(&mut content)
                    .map_err(|error| format!("{name}: {error}"))?;
                content
            }
            other => return Err(format!("{name} is packed by method {other}")),
        };
        if content.len() != full {
            return Err(cut());
        }
        found.push((name.to_owned(), content));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of one stored and one deflated file, as a zip program writes it.
    fn archive() -> Vec<u8> {
        let mut packed =
            flate2::read::DeflateEncoder::new(&[7_u8; 500][..], flate2::Compression::best());
        let mut deflated = Vec::new();
        packed.read_to_end(&mut deflated).unwrap();
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        let files: [(&str, u8, &[u8], u32); 2] = [
            ("p/one.onnx", 0, b"abc", 3),
            ("p/two.onnx", 8, &deflated, 500),
        ];
        for (name, method, data, full) in files {
            let local = file.len() as u32;
            let mut common = vec![20, 0, 0, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            common.extend((data.len() as u32).to_le_bytes());
            common.extend(full.to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0, 0]);
            file.extend(b"PK\x03\x04");
            file.extend(&common);
            file.extend(name.bytes());
            file.extend(data);
            directory.extend(b"PK\x01\x02\x14\0");
            directory.extend(&common);
            directory.extend([0; 10]);
            directory.extend(local.to_le_bytes());
            directory.extend(name.bytes());
        }
        let start = file.len() as u32;
        file.extend(&directory);
        file.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
        file.extend((directory.len() as u32).to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend([0, 0]);
        file
    }

    #[test]
    fn stored_and_deflated_files() {
        let bytes = archive();
        assert!(is_archive(&bytes));
        let found = entries(&bytes, |name| name.ends_with(".onnx")).unwrap();
        assert_eq!(found[0], ("one.onnx".to_owned(), b"abc".to_vec()));
        assert_eq!(found[1], ("two.onnx".to_owned(), vec![7; 500]));
        assert!(entries(&bytes, |name| name == "none").unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = archive();
        // The last two bytes are the length of a comment, which nobody needs.
        for end in 0..bytes.len() - 2 {
            assert!(entries(&bytes[..end], |_| true).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            let _ = entries(&broken, |_| true);
        }
    }
}
