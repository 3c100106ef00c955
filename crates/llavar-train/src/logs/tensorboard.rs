//! TensorBoard event files: `tb/events.out.tfevents.*`, one a session of the run.
//!
//! A file is a row of TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of them) that hold `Event`
//! messages of `tensorflow/core/util/event.proto`. Each session begins with `SessionLog.START` at its first step,
//! by which TensorBoard forgets what an interrupted session has shown of that step and later ones.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crc::{CRC_32_ISCSI, Crc};

use crate::TrainError;

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;
/// `DataType.DT_STRING`.
const STRING: u64 = 7;

/// The event file of a session.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `folder` whose first step is `step`. Its name comes behind those of earlier sessions,
    /// because TensorBoard reads them in that order.
    pub(crate) fn create(folder: &Path, step: u64) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::save(folder, e))?;
        let entries = fs::read_dir(folder).map_err(TrainError::io(folder))?;
        let seconds_of = |name: &str| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
        let newest: Option<u64> = entries
            .flatten()
            .filter_map(|entry| seconds_of(&entry.file_name().to_string_lossy()))
            .max();
        let mut seconds = (wall_time() as u64).max(newest.map_or(0, |s| s + 1));
        let host = host_name();
        loop {
            let path = folder.join(format!("{PREFIX}{seconds:010}.{host}"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Self { path, file };
                    events.begin(step)?;
                    return Ok(events);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => seconds += 1,
                Err(error) => return Err(TrainError::save(path, error)),
            }
        }
    }

    fn begin(&mut self, step: u64) -> Result<(), TrainError> {
        let mut version = event(0);
        version.text(3, "brain.Event:2");
        let mut start = event(step);
        let mut session = Message::default();
        session.integer(1, START);
        start.message(7, &session);
        self.write(&[version, start])
    }

    /// Writes values of one step.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut scalar = Message::default();
            scalar.text(1, tag);
            scalar.float(2, *value as f32);
            summary.message(1, &scalar);
        }
        let mut event = event(step);
        event.message(5, &summary);
        self.write(&[event])
    }

    /// Writes a text in Markdown, for the tab of that name.
    pub(crate) fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<(), TrainError> {
        let (mut plugin, mut metadata) = (Message::default(), Message::default());
        plugin.text(1, "text");
        metadata.message(1, &plugin);
        let (mut one, mut shape, mut tensor) = Default::default();
        Message::integer(&mut one, 1, 1);
        Message::message(&mut shape, 2, &one);
        Message::integer(&mut tensor, 1, STRING);
        tensor.message(2, &shape);
        tensor.text(8, text);
        let mut value = Message::default();
        value.text(1, tag);
        value.message(9, &metadata);
        value.message(8, &tensor);
        let mut summary = Message::default();
        summary.message(1, &value);
        let mut event = event(step);
        event.message(5, &summary);
        self.write(&[event])
    }

    /// Appends whole records in one call, so that an interruption leaves whole ones.
    fn write(&mut self, events: &[Message]) -> Result<(), TrainError> {
        let bytes: Vec<u8> = events.iter().flat_map(|event| record(&event.0)).collect();
        let written = self.file.write_all(&bytes);
        written.map_err(|source| TrainError::save(&self.path, source))
    }
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, turned and shifted, because a CRC over data that hold CRCs is weak.
fn masked_crc(data: &[u8]) -> u32 {
    CRC32C
        .checksum(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// An `Event` at `step`, now.
fn event(step: u64) -> Message {
    let mut event = Message::default();
    event.double(1, wall_time());
    event.integer(2, step);
    event
}

fn wall_time() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Name of this machine as far as a file name can hold it.
fn host_name() -> String {
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = name.trim().chars().filter(plain).take(63).collect();
    match name.is_empty() {
        true => "localhost".into(),
        false => name,
    }
}

/// A protocol buffer that is being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parser of its own: fields of a message as (number, wire type, bytes or little-endian number).
    fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(data: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        }
        let mut all = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let len = match key & 7 {
                0 => {
                    let value = varint(&mut data);
                    all.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                2 => varint(&mut data) as usize,
                other => panic!("wire type {other}"),
            };
            all.push((key >> 3, data[..len].to_vec()));
            data = &data[len..];
        }
        all
    }

    fn field(message: &[u8], number: u64) -> Option<Vec<u8>> {
        let all = fields(message);
        all.into_iter().find(|(n, _)| *n == number).map(|(_, v)| v)
    }

    /// Bit by bit, as the polynomial is defined.
    fn crc32c(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    /// Events of a file, its checksums checked.
    fn events(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut all) = (&bytes[..], Vec::new());
        let unmask = |bytes: &[u8]| {
            let masked = u32::from_le_bytes(bytes.try_into().unwrap());
            masked.wrapping_sub(0xa282_ead8).rotate_left(15)
        };
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(&rest[8..12]), crc32c(&rest[..8]));
            let data = &rest[12..12 + len];
            assert_eq!(unmask(&rest[12 + len..16 + len]), crc32c(data));
            all.push(data.to_vec());
            rest = &rest[16 + len..];
        }
        all
    }

    #[test]
    fn files_say_what_was_written() {
        // The check value of the polynomial, and the mask of TFRecords of 8 zero bytes.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path(), 3).unwrap();
        let values = [("train/loss", 1.5), ("train/learning_rate", 2e-5)];
        file.scalars(300, &values).unwrap();
        file.text(3, "recipe", "a = 1").unwrap();
        let events = events(&file.path);
        assert_eq!(events.len(), 4);
        assert_eq!(field(&events[0], 3).unwrap(), b"brain.Event:2");
        let session = field(&events[1], 7).unwrap();
        assert_eq!(field(&session, 1).unwrap(), START.to_le_bytes());
        assert_eq!(field(&events[1], 2).unwrap(), 3u64.to_le_bytes());
        assert_eq!(field(&events[2], 2).unwrap(), 300u64.to_le_bytes());
        let summary = field(&events[2], 5).unwrap();
        let got: Vec<(String, f32)> = fields(&summary)
            .into_iter()
            .map(|(_, value)| {
                let tag = String::from_utf8(field(&value, 1).unwrap()).unwrap();
                let scalar = field(&value, 2).unwrap().try_into().unwrap();
                (tag, f32::from_le_bytes(scalar))
            })
            .collect();
        let want = values.map(|(tag, value)| (tag.to_owned(), value as f32));
        assert_eq!(got, want);
    }

    #[test]
    fn later_sessions_come_behind_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<PathBuf> = (0..3)
            .map(|step| EventFile::create(dir.path(), step).unwrap().path)
            .collect();
        assert!(names[0] < names[1] && names[1] < names[2], "{names:?}");
    }
}
