//! Typed fields of a JSON object. What is null counts as left out.

use serde_json::{Map, Value};

use super::ApiError;

/// The fields of a request.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    /// Takes a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let value = self.0.get_mut(name)?.take();
        (!value.is_null()).then_some(value)
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// A number from `least` to `most`; `beyond` says that `least` itself is too little.
    pub(super) fn number(
        &mut self,
        name: &str,
        (least, beyond, most): (f64, bool, f64),
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let fits = |x: &f64| *x >= least && *x <= most && !(beyond && *x == least);
        // What has to be above 0 may be 0 as an f32, and what has no limit infinite.
        let given = value.as_f64().filter(fits);
        let number = given.map(|x| x as f32);
        let number = number.filter(|x| x.is_finite() && fits(&f64::from(*x)));
        let mut range = match (beyond, most.is_finite()) {
            (true, true) => format!("a number above {least}, at most {most}"),
            (true, false) => format!("a number above {least}"),
            (false, _) => format!("a number from {least} to {most}"),
        };
        if given.is_some() {
            range += " that an f32 holds";
        }
        let number = number.ok_or_else(|| wrong(name, &range, &value))?;
        Ok(Some(number))
    }

    /// A whole number of 1 or more.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = value.as_u64().filter(|n| *n > 0);
        let count = count.and_then(|n| usize::try_from(n).ok());
        let count = count.ok_or_else(|| wrong(name, "a whole number of 1 or more", &value))?;
        Ok(Some(count))
    }

    /// Refuses a field that asks for something which is not done here; `neutral` values ask for nothing.
    pub(super) fn refuse(
        &mut self,
        name: &str,
        neutral: impl Fn(&Value) -> bool,
        what: &str,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral(&value) => {
                let message = format!("`{name}`: {what}; leave it out");
                Err(ApiError::field(name, message).code("unsupported_parameter"))
            }
            _ => Ok(()),
        }
    }
}

/// A field of the wrong kind or size.
pub(super) fn wrong(name: &str, expected: &str, got: &Value) -> ApiError {
    let message = format!("`{name}` has to be {expected}, not {}", shown(got));
    ApiError::field(name, message).code("invalid_value")
}

/// A value as it is quoted in a message: what may be long by its kind.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        other => other.to_string(),
    }
}
