//! 128-bit fingerprints (FNV-1a) of texts and files: the same input gives the same one everywhere.
//!
//! They tell runs, prompts and pictures apart; they do not resist somebody who forges them.

/// A fingerprint being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x6C62_272E_07BB_0142_62B8_2175_6295_C58D)
    }
}

impl Fingerprint {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;

    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(Self::PRIME);
        }
        self
    }

    /// Adds a text as one field: 0xFF is in no UTF-8 text, so fields cannot run into each other.
    pub fn field(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes()).bytes(&[0xFF])
    }

    /// The value.
    pub fn value(&self) -> u128 {
        self.0
    }

    /// The value as 32 hex digits.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_and_fields_apart() {
        // FNV-1a, 128 bits: the published value of "foobar".
        let mut hash = Fingerprint::default();
        assert_eq!(
            hash.bytes(b"foobar").hex(),
            "343e1662793c64bf6f0d3597ba446f18"
        );
        let of = |fields: &[&str]| {
            let mut hash = Fingerprint::default();
            fields.iter().for_each(|text| {
                hash.field(text);
            });
            hash.value()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    }
}
