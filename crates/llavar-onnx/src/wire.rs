//! Protocol buffers, as far as ONNX files use them.

/// A field of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    /// An integer.
    Varint(u64),
    /// Four bytes, little endian.
    Fixed32([u8; 4]),
    /// Eight bytes; nothing that is read here has such a field.
    Fixed64,
    /// A text, a message, or packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    /// The bytes of a text or message.
    pub(crate) fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a number where a message was expected".to_owned()),
        }
    }

    /// A text.
    pub(crate) fn text(self) -> Result<String, String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// An integer.
    pub(crate) fn int(self) -> Result<i64, String> {
        match self {
            Self::Varint(value) => Ok(value as i64),
            _ => Err("an integer was expected".to_owned()),
        }
    }

    /// Adds integers, one or packed.
    pub(crate) fn push_ints(self, to: &mut Vec<i64>) -> Result<(), String> {
        match self {
            Self::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    to.push(varint(&mut bytes)? as i64);
                }
            }
            one => to.push(one.int()?),
        }
        Ok(())
    }

    /// Adds floats, one or packed.
    pub(crate) fn push_floats(self, to: &mut Vec<f32>) -> Result<(), String> {
        match self {
            Self::Fixed32(value) => to.push(f32::from_le_bytes(value)),
            other => to.extend(floats(other.bytes()?)),
        }
        Ok(())
    }
}

/// Floats out of little-endian bytes.
pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
}

/// Calls `f` with number and content of every field of a message.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    mut f: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)?),
            1 => {
                take(&mut message, 8)?;
                Field::Fixed64
            }
            2 => {
                let length = varint(&mut message)?;
                let length = usize::try_from(length).map_err(|_| cut())?;
                Field::Bytes(take(&mut message, length)?)
            }
            5 => Field::Fixed32(array(&mut message)?),
            kind => return Err(format!("field of unknown kind {kind}")),
        };
        f(key >> 3, field)?;
    }
    Ok(())
}

fn cut() -> String {
    "the file ends within a message".to_owned()
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (head, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
    *bytes = rest;
    Ok(head)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    take(bytes, N)?.try_into().map_err(|_| cut())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = array(bytes)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer of more than 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_messages_are_errors() {
        let seen = |bytes: &[u8]| {
            let mut seen = Vec::new();
            fields(bytes, |number, field| {
                seen.push((number, field.int()?));
                Ok(())
            })
            .map(|()| seen)
        };
        assert_eq!(seen(&[0x08, 0x96, 0x01]), Ok(vec![(1, 150)]));
        for broken in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x12, 0x05, 1],
            &[0x0b],
            &[0x80; 11],
            &[0x0d, 1],
        ] {
            assert!(seen(broken).is_err(), "{broken:?}");
        }
    }
}
