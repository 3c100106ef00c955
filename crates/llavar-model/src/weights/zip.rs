//! The directory of a zip archive, as far as PyTorch writes it: stored (not compressed) members, zip64
//! where needed. Members stay in the mapped file.

use std::{collections::HashMap, ops::Range};

use thiserror::Error;

/// What is wrong with an archive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ZipError {
    /// The directory at the end of the file is missing.
    #[error("its end is missing (no zip directory), the download or copy did not finish")]
    NoDirectory,
    /// A record of the directory is broken.
    #[error("its directory is damaged at byte {at}: {what}")]
    Directory {
        /// Offset in the file.
        at: usize,
        /// What was looked for.
        what: &'static str,
    },
    /// A member is compressed.
    #[error(
        "its member `{member}` is compressed (method {method}); PyTorch stores weights uncompressed"
    )]
    Compressed {
        /// The member.
        member: String,
        /// The method's number.
        method: u16,
    },
    /// A member lies outside the file.
    #[error("its member `{member}` lies outside the file")]
    Outside {
        /// The member.
        member: String,
    },
    /// A member's name is not UTF-8, or occurs twice.
    #[error("its member `{member}` is listed twice or is not named in UTF-8")]
    Name {
        /// The member.
        member: String,
    },
}

/// The members of an archive by name.
pub(crate) type Members = HashMap<String, Range<usize>>;

const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Reads the directory.
pub(crate) fn read(file: &[u8]) -> Result<Members, ZipError> {
    let end = find_end(file)?;
    let damaged = |at, what| ZipError::Directory { at, what };
    let mut count = u64::from(u16_at(file, end + 10).ok_or(ZipError::NoDirectory)?);
    let mut at = u64::from(u32_at(file, end + 16).ok_or(ZipError::NoDirectory)?);
    // With zip64 the fields above are all ones and the true ones stand in a record of their own.
    if let Some(locator) = end.checked_sub(20)
        && file.get(locator..locator + 4) == Some(LOCATOR64)
    {
        let record = u64_at(file, locator + 8)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| file.get(n..).is_some_and(|rest| rest.starts_with(END64)))
            .ok_or(damaged(locator, "the zip64 end record"))?;
        count = u64_at(file, record + 32).ok_or(damaged(record, "the zip64 number of members"))?;
        at = u64_at(file, record + 48).ok_or(damaged(record, "the zip64 directory offset"))?;
    }
    let mut at = usize::try_from(at).map_err(|_| damaged(end, "the directory offset"))?;
    let mut members = Members::new();
    for _ in 0..count {
        // A wrong count ends here, because each record must begin with its mark.
        if file.get(at..).is_none_or(|rest| !rest.starts_with(CENTRAL)) {
            return Err(damaged(at, "a directory record"));
        }
        let (member, range, next) = central_record(file, at)?;
        if members.contains_key(&member) {
            return Err(ZipError::Name { member });
        }
        members.insert(member, range);
        at = next;
    }
    Ok(members)
}

/// The end record is last, followed only by a comment of up to 65,535 bytes.
fn find_end(file: &[u8]) -> Result<usize, ZipError> {
    let last = file.len().checked_sub(22).ok_or(ZipError::NoDirectory)?;
    (last.saturating_sub(65_535)..=last)
        .rev()
        .find(|&at| file.get(at..at + 4) == Some(END))
        .ok_or(ZipError::NoDirectory)
}

fn central_record(file: &[u8], at: usize) -> Result<(String, Range<usize>, usize), ZipError> {
    let damaged = ZipError::Directory {
        at,
        what: "a directory record",
    };
    let record = (|| {
        let method = u16_at(file, at + 10)?;
        let sizes = (
            u32_at(file, at + 20)?,
            u32_at(file, at + 24)?,
            u32_at(file, at + 42)?,
        );
        let name_len = usize::from(u16_at(file, at + 28)?);
        let extra_len = usize::from(u16_at(file, at + 30)?);
        let comment_len = usize::from(u16_at(file, at + 32)?);
        let name = file.get(at + 46..at + 46 + name_len)?;
        let extra = file.get(at + 46 + name_len..at + 46 + name_len + extra_len)?;
        Some((
            method,
            sizes,
            name,
            extra,
            at + 46 + name_len + extra_len + comment_len,
        ))
    })();
    let Some((method, (packed, size, offset), name, extra, next)) = record else {
        return Err(damaged);
    };
    let Ok(member) = std::str::from_utf8(name).map(str::to_owned) else {
        return Err(ZipError::Name {
            member: String::from_utf8_lossy(name).into_owned(),
        });
    };
    let Some((packed, size, offset)) = wide(extra, packed, size, offset) else {
        return Err(damaged);
    };
    if method != 0 || packed != size {
        return Err(ZipError::Compressed { member, method });
    }
    let range = (|| {
        let offset = usize::try_from(offset).ok()?;
        file.get(offset..)?.starts_with(LOCAL).then_some(())?;
        // The local header has its own lengths: PyTorch pads there to align the data.
        let start = offset
            .checked_add(30)?
            .checked_add(usize::from(u16_at(file, offset + 26)?))?
            .checked_add(usize::from(u16_at(file, offset + 28)?))?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        (end <= file.len()).then_some(start..end)
    })();
    match range {
        Some(range) => Ok((member, range, next)),
        None => Err(ZipError::Outside { member }),
    }
}

/// Replaces fields of all ones by the zip64 extra field's, which holds only those, in this order.
fn wide(mut extra: &[u8], packed: u32, size: u32, offset: u32) -> Option<(u64, u64, u64)> {
    if [packed, size, offset].iter().all(|&n| n != u32::MAX) {
        return Some((packed.into(), size.into(), offset.into()));
    }
    loop {
        let id = u16_at(extra, 0)?;
        let len = usize::from(u16_at(extra, 2)?);
        let body = extra.get(4..4 + len)?;
        if id == 1 {
            let mut at = 0;
            let mut next = |narrow: u32| {
                if narrow != u32::MAX {
                    return Some(u64::from(narrow));
                }
                let value = u64_at(body, at)?;
                at += 8;
                Some(value)
            };
            // The record's order is size, packed size, offset.
            let size = next(size)?;
            let packed = next(packed)?;
            return Some((packed, size, next(offset)?));
        }
        extra = extra.get(4 + len..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
