//! `Retry-After` as seconds or as a date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer waits are read as this one, which no retry outlasts.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// The wait that a header asks for: `12`, `0.5`, or `Wed, 21 Oct 2015 07:28:00 GMT` less `now`.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let wait = (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds));
        return wait.map(|wait| wait.unwrap_or(LONGEST).min(LONGEST));
    }
    let at = UNIX_EPOCH + Duration::from_secs(imf_fixdate(value)?);
    Some(at.duration_since(now).unwrap_or_default().min(LONGEST))
}

/// Seconds since 1970 of the date form that RFC 9110 asks servers to send.
fn imf_fixdate(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok()?;
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let name = parts.next()?;
    let month = months.iter().position(|m| *m == name)? as i64 + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let clock: Vec<u64> = parts
        .next()?
        .split(':')
        .map(|n| n.parse().ok())
        .collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    if parts.next() != Some("GMT") || !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 in the proleptic Gregorian calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    u64::try_from(days)
        .ok()
        .map(|days| days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        let wait = |text| retry_after(text, now);
        assert_eq!(wait("12"), Some(Duration::from_secs(12)));
        assert_eq!(wait("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(
            wait("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            wait("Thu, 01 Jan 1970 00:00:00 GMT"),
            Some(Duration::from_secs(0))
        );
        assert_eq!(wait("1e300"), Some(LONGEST));
        for bad in ["-1", "NaN", "soon", "", "Wed, 21 Okt 2015 07:28:00 GMT"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
        assert_eq!(
            imf_fixdate("Tue, 29 Feb 2000 12:00:00 GMT"),
            Some(951_825_600)
        );
    }
}
