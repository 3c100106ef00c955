//! What is made from the values of weights and kept until one of them changes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Result;

/// A number for a value that no other value has had.
pub(super) fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed) + 1
}

/// Made from values of these versions. What is no longer up to date serves the next one with its memory: what is let
/// go and asked for again in each step leaves a pool of memory in pieces.
#[derive(Debug)]
pub(super) struct Derived<T> {
    made: Option<T>,
    of: [u64; 3],
}

impl<T> Default for Derived<T> {
    fn default() -> Self {
        let (made, of) = (None, [0; 3]);
        Self { made, of }
    }
}

impl<T: Clone> Derived<T> {
    /// What is made from values of these versions; `make` is asked where that is not there, and given what is.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub(super) fn get(
        &mut self,
        of: [u64; 3],
        make: impl FnOnce(Option<T>) -> Result<T>,
    ) -> Result<T> {
        if let (Some(made), true) = (&self.made, self.of == of) {
            return Ok(made.clone());
        }
        let made = make(self.made.take())?;
        self.of = of;
        Ok(self.made.insert(made).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Param, Tensor};

    #[test]
    fn what_is_made_lasts_until_one_of_its_values_changes() {
        let param = || Param::new("w", Tensor::zeros(&[2]));
        let (w, b, g, other) = (param(), param(), param(), param());
        let mut made = 0;
        let mut scaled = |gamma: &Param| {
            let before = made;
            let tensors = w.scaled([&b, gamma], |_, _| {
                made += 1;
                Ok([Tensor::zeros(&[1]), Tensor::zeros(&[1])])
            });
            tensors.unwrap();
            made > before
        };
        assert_eq!([scaled(&g), scaled(&g)], [true, false]);
        for changed in [&w, &b, &g] {
            changed.update(|_, _| Ok(())).unwrap();
            assert_eq!([scaled(&g), scaled(&g)], [true, false]);
        }
        b.set_value(Tensor::zeros(&[2])).unwrap();
        assert_eq!([scaled(&g), scaled(&g)], [true, false]);
        // Another layer scale is another weight, however much it is like the first.
        assert_eq!(
            [scaled(&other), scaled(&other), scaled(&g)],
            [true, false, true]
        );
        w.release();
        w.set_value(Tensor::zeros(&[2])).unwrap();
        assert!(scaled(&g));
    }

    #[test]
    fn an_error_keeps_nothing() {
        let mut derived = Derived::default();
        let error = || crate::Error::NotRecorded { op: "test" };
        assert_eq!(
            derived.get([1, 0, 0], |old| Ok(old.unwrap_or(5))).unwrap(),
            5
        );
        assert!(
            derived
                .get([2, 0, 0], |_: Option<i32>| Err(error()))
                .is_err()
        );
        assert_eq!(
            derived.get([1, 0, 0], |old| Ok(old.unwrap_or(7))).unwrap(),
            7
        );
    }
}
