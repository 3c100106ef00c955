//! Typed access to the keys of a JSON object that notes every problem instead of stopping at the first.

use serde_json::{Map, Value};

use super::error::Problem;

/// The largest size (rows, columns, layers, tokens) that any key may have: far above every published
/// model, and small enough that products of three of them cannot overflow 64 bits.
pub(crate) const MAX_SIZE: usize = 1 << 21;

/// Collects problems over one or several objects.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    pub(crate) fn add(
        &mut self,
        key: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) {
        self.0.push(Problem {
            key: key.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        });
    }
}

/// A view of one (possibly nested) object; an absent key and `null` are the same, as in the files that
/// the reference writes.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, prefix: &'a str) -> Self {
        Self { map, prefix }
    }

    /// The dotted name of a key of this object.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.prefix)
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// A whole number from 1 to [`MAX_SIZE`]; `default` when absent, a problem when that is `None`.
    pub(crate) fn size(&self, key: &str, default: Option<usize>, problems: &mut Problems) -> usize {
        self.size_below(key, default, MAX_SIZE, problems)
    }

    /// As [`Fields::size`] with another upper end. A value in error reads as 1, so that the checks that
    /// follow can go on without dividing by zero.
    pub(crate) fn size_below(
        &self,
        key: &str,
        default: Option<usize>,
        max: usize,
        problems: &mut Problems,
    ) -> usize {
        let allowed = || format!("a whole number from 1 to {max}");
        match (self.get(key), default) {
            (None, Some(default)) => default,
            (None, None) => {
                problems.add(self.path(key), "missing", allowed());
                1
            }
            // Some tools write 4096.0 for 4096.
            (Some(value), _) => match whole(value) {
                Some(n) if (1..=max as i64).contains(&n) => n as usize,
                _ => {
                    problems.add(self.path(key), value, allowed());
                    1
                }
            },
        }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, key: &str, default: Option<f64>, problems: &mut Problems) -> f64 {
        match (self.get(key), default) {
            (None, Some(default)) => default,
            (None, None) => {
                problems.add(self.path(key), "missing", "a number above 0");
                1.0
            }
            (Some(value), _) => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => x,
                _ => {
                    problems.add(self.path(key), value, "a number above 0");
                    1.0
                }
            },
        }
    }

    pub(crate) fn boolean(&self, key: &str, default: bool, problems: &mut Problems) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(b)) => *b,
            Some(value) => {
                problems.add(self.path(key), value, "true or false");
                default
            }
        }
    }

    pub(crate) fn string(&self, key: &str, problems: &mut Problems) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(s) => Some(s),
            value => {
                problems.add(self.path(key), value, "a string");
                None
            }
        }
    }

    pub(crate) fn object(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Option<&'a Map<String, Value>> {
        match self.get(key)? {
            Value::Object(map) => Some(map),
            value => {
                problems.add(self.path(key), value, "an object");
                None
            }
        }
    }

    /// A token id; negative ids mean "none" in some published files.
    pub(crate) fn token_id(&self, key: &str, problems: &mut Problems) -> Option<u32> {
        let value = self.get(key)?;
        match whole(value) {
            Some(n) if n < 0 => None,
            Some(n) if n <= MAX_SIZE as i64 => Some(n as u32),
            _ => {
                problems.add(self.path(key), value, "a token id");
                None
            }
        }
    }

    /// One token id or a list of them.
    pub(crate) fn token_ids(&self, key: &str, problems: &mut Problems) -> Vec<u32> {
        match self.get(key) {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|v| match whole(v) {
                    Some(n) if (0..=MAX_SIZE as i64).contains(&n) => Some(n as u32),
                    _ => {
                        problems.add(self.path(key), v, "a token id or a list of token ids");
                        None
                    }
                })
                .collect(),
            _ => self.token_id(key, problems).into_iter().collect(),
        }
    }

    /// A list of numbers above zero.
    pub(crate) fn numbers(&self, key: &str, problems: &mut Problems) -> Vec<f64> {
        let allowed = "a list of numbers above 0";
        match self.get(key) {
            Some(Value::Array(items)) => {
                let numbers: Vec<f64> = items
                    .iter()
                    .filter_map(Value::as_f64)
                    .filter(|x| x.is_finite() && *x > 0.0)
                    .collect();
                if numbers.len() != items.len() {
                    problems.add(
                        self.path(key),
                        format!("a list with {} other value(s)", items.len() - numbers.len()),
                        allowed,
                    );
                }
                numbers
            }
            Some(value) => {
                problems.add(self.path(key), value, allowed);
                Vec::new()
            }
            None => {
                problems.add(self.path(key), "missing", allowed);
                Vec::new()
            }
        }
    }

    /// Four sizes, as the four ConvNeXt stages need.
    pub(crate) fn four_sizes(
        &self,
        key: &str,
        default: [usize; 4],
        max: usize,
        problems: &mut Problems,
    ) -> [usize; 4] {
        let Some(value) = self.get(key) else {
            return default;
        };
        let sizes: Option<Vec<usize>> = value.as_array().and_then(|items| {
            items
                .iter()
                .map(|v| {
                    whole(v)
                        .filter(|n| (1..=max as i64).contains(n))
                        .map(|n| n as usize)
                })
                .collect()
        });
        match sizes.and_then(|s| <[usize; 4]>::try_from(s).ok()) {
            Some(sizes) => sizes,
            None => {
                problems.add(
                    self.path(key),
                    value,
                    format!("four whole numbers from 1 to {max}"),
                );
                default
            }
        }
    }
}

/// A whole number, also when it is written with a fraction of zero.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|x| x.fract() == 0.0 && x.abs() < 9e15)
            .map(|x| x as i64)
    })
}
