//! The bytes that a token stands for, also where it is a part of a character.

use super::{METASPACE, Tokenizer};

impl Tokenizer {
    /// Bytes of one id in the middle of a text: joined over ids they are the text, with a space in front where the
    /// vocabulary begins every text with one. None for an unknown id.
    ///
    /// A byte-level vocabulary writes each byte as a character of its own (GPT-2's table), a SentencePiece one a space
    /// as `▁` and a byte without a piece as `<0xE2>`. Added tokens are what they say.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.id_to_token(id) else {
            return Vec::new();
        };
        if self.is_added(id) {
            return token.into_bytes();
        }
        if self.word_start.is_none() {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return bytes.unwrap_or_else(|| token.into_bytes());
        }
        match hexadecimal(&token) {
            Some(byte) => vec![byte],
            None => token.replace(METASPACE, " ").into_bytes(),
        }
    }
}

/// `<0xE2>`.
fn hexadecimal(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that a character stands for in a byte-level vocabulary: printable ones of Latin-1 themselves, the others
/// in order from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let own = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(u32::from(c)) {
        Ok(byte) => own(byte).then_some(byte),
        Err(_) => {
            let place = u32::from(c).checked_sub(256)?;
            let others = (0..=u8::MAX).filter(|byte| !own(*byte));
            others.into_iter().nth(usize::try_from(place).ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let all = (0..0x200).filter_map(char::from_u32);
        let mut bytes: Vec<u8> = all.filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=u8::MAX));
        // As GPT-2's vocabulary has them.
        assert_eq!([byte_of('Ġ'), byte_of('Ċ')], [Some(b' '), Some(b'\n')]);
        assert_eq!([byte_of('A'), byte_of('â')], [Some(b'A'), Some(0xe2)]);
        assert_eq!([byte_of(' '), byte_of('▁')], [None, None]);
    }

    #[test]
    fn bytes_without_a_piece_are_read() {
        assert_eq!(hexadecimal("<0xE2>"), Some(0xe2));
        for token in ["<0xE>", "<0x0E2>", "<0xG1>", "0xE2", "<s>"] {
            assert_eq!(hexadecimal(token), None, "{token}");
        }
    }
}
