//! Durations as a file says them: `500ms`, `2s`, `5m`, `1h`.

use std::time::Duration;

/// The form of a duration that is not nothing.
pub(super) const DURATION: &str = "^[1-9][0-9]*(ms|s|m|h)$";

/// Units and their milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The duration that `text` says: a whole number without leading zeros, and a unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    let (_, milliseconds) = UNITS.iter().find(|(word, _)| *word == unit)?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(*milliseconds).map(Duration::from_millis)
}

/// A duration of whole milliseconds in the largest unit that fits.
pub(super) fn text(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let fits = UNITS.iter().find(|(_, unit)| milliseconds.is_multiple_of(*unit));
    let (word, unit) = fits.expect("every number is a multiple of 1");
    format!("{}{word}", milliseconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, want) in [
            ("500ms", Some(500)),
            ("2s", Some(2000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("", None),
            ("2", None),
            ("s", None),
            ("02s", None),
            ("-2s", None),
            ("2 s", None),
            ("1.5s", None),
            ("2S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(parse(text), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn and_written_as_they_were_read() {
        for word in ["500ms", "2s", "5m", "1h", "0s", "1500ms", "90s"] {
            assert_eq!(text(parse(word).unwrap()), word);
        }
    }
}
