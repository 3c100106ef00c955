//! Lines of values inside a text.

use serde_json::value::RawValue;

/// On which lines the values of a text start, asked for in their order.
pub(super) struct LineNumbers<'a> {
    text: &'a str,
    line: usize,
    counted: usize,
}

impl<'a> LineNumbers<'a> {
    /// Of a text that starts on line `before + 1`.
    pub(super) fn of(text: &'a str, before: usize) -> Self {
        Self {
            text,
            line: before + 1,
            counted: 0,
        }
    }

    /// Line on which a value starts; it is a slice of the text, so its address tells where.
    pub(super) fn at(&mut self, value: &RawValue) -> usize {
        let at = (value.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.line += self.text[self.counted..at].matches('\n').count();
        self.counted = at;
        self.line
    }
}
