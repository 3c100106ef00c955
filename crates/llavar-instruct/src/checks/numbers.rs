//! Numbers that a text says must be known of the picture.

use std::collections::HashSet;

use super::{Broken, Evidence, Reason, broken};

/// Whether small whole numbers may be counts of what is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    Allowed,
    Refused,
}

/// Up to here a whole number may be a count.
const MOST_COUNTED: u32 = 20;

/// Every number of a text is in the evidence: with other marks in it (1,299 and 1299), or with its parts in
/// another order and between words (12/03/2018 and 12 March 2018).
pub(super) fn known(text: &str, evidence: &Evidence, counts: Counts) -> Result<(), Broken> {
    if evidence.is_empty() {
        return Ok(());
    }
    for number in numbers(text) {
        let count = number.parse().is_ok_and(|n: u32| n <= MOST_COUNTED);
        let is_known = is_known(number, evidence) || (count && counts == Counts::Allowed);
        if !is_known {
            return broken(
                Reason::InventedNumber,
                format!("the number {number} is not written in the image"),
            );
        }
    }
    Ok(())
}

/// Whether a text is a number that is in the evidence.
pub(super) fn is_known(number: &str, evidence: &Evidence) -> bool {
    let groups: Vec<&str> = groups(number).collect();
    let digits = groups.concat();
    let mut parts = groups.iter().map(|group| without_zeros(group));
    !groups.is_empty()
        && (evidence.has_number(&digits) || parts.all(|part| evidence.has_number(part)))
}

/// The forms under which numbers of a text are known.
pub(super) fn forms(text: &str) -> HashSet<String> {
    let mut forms = HashSet::new();
    for number in numbers(text) {
        let mut digits = String::new();
        for group in groups(number) {
            forms.insert(without_zeros(group).to_owned());
            digits.push_str(group);
            // 1,299.00 is known as 1299 too.
            forms.insert(digits.clone());
        }
        // A year of two digits in a date: 18-11-18 and 2018.
        if let [first, _, last] = groups(number).collect::<Vec<_>>()[..] {
            for year in [first, last].into_iter().filter(|year| year.len() == 2) {
                forms.extend([format!("19{year}"), format!("20{year}")]);
            }
        }
    }
    forms
}

/// Digits with marks between them, as 1,299.00 and 12/03/2018.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | ':' | '/' | '-' | '\'');
    text.split(move |c| !inside(c))
        .map(|part| part.trim_matches(|c: char| !c.is_ascii_digit()))
        .filter(|part| !part.is_empty())
}

fn groups(number: &str) -> impl Iterator<Item = &str> {
    let parts = number.split(|c: char| !c.is_ascii_digit());
    parts.filter(|part| !part.is_empty())
}

fn without_zeros(group: &str) -> &str {
    match group.trim_start_matches('0') {
        "" => "0",
        rest => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_known_in_other_forms_and_inventions_are_not() {
        let evidence = Evidence::new([
            "Total RM1,299.00",
            "12/03/2018 14:05",
            "Tel 555-0199",
            "Up to 40% off",
            "Printed 18-11-17",
        ]);
        for good in [
            "It is 1299.",
            "It is 1,299 ringgit.",
            "It was on 12 March 2018 at 14:05.",
            "It was on 3.12.2018.",
            "Call 5550199.",
            "It is 40 % off.",
            "It was printed on 18 November 2017.",
            "None.",
        ] {
            assert_eq!(known(good, &evidence, Counts::Refused), Ok(()), "{good}");
        }
        for bad in [
            "It is 1,399.00.",
            "It was in 2019.",
            "The 100-page document.",
            "It is 4 pages.",
        ] {
            let broken = known(bad, &evidence, Counts::Refused).unwrap_err();
            assert_eq!(broken.reason, Reason::InventedNumber, "{bad}");
        }
        assert_eq!(known("It has 4 lines.", &evidence, Counts::Allowed), Ok(()));
        assert!(known("It has 400 lines.", &evidence, Counts::Allowed).is_err());
        assert_eq!(
            known("In 1999.", &Evidence::default(), Counts::Refused),
            Ok(())
        );
    }
}
