//! Durations and sizes as Docker prints them.

use std::time::{Duration, SystemTime};

/// `duration` in one unit: "5 seconds", "About a minute", "3 weeks".
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Docker rounds hours to the nearest, and everything else down.
    let hours = (seconds + 1_800) / 3_600;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3_600 / 24 / 365),
    }
}

/// How long ago `moment` was: "2 hours ago". A moment in the future, after the clock was set back, counts as now.
pub fn ago(moment: SystemTime, now: SystemTime) -> String {
    format!("{} ago", duration(now.duration_since(moment).unwrap_or_default()))
}

/// `bytes` in powers of 1000 with three significant digits: "12.3MB", as for images and write layers.
pub fn size(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

/// `bytes` in powers of 1024 with four significant digits: "1.5MiB", as for memory.
pub fn memory(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while unit + 1 < units.len() && significant(value, digits).parse::<f64>().unwrap_or(value) >= base {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// `value`, 0 or more, with `digits` significant digits and no zeros at the end.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A moment from RFC 3339 text, e.g. `2024-02-29T23:59:59.5Z` or with an offset; `None` when it is none, or before 1970.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut numbers = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut numbers = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Days since 1970-01-01 by Howard Hinnant's `days_from_civil`.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year / 400;
    let year_of_era = shifted_year - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let nanoseconds: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let since = Duration::new(u64::try_from(seconds).ok()?, nanoseconds.parse().ok()?);
    Some(SystemTime::UNIX_EPOCH + since)
}

/// A moment as `until` and `--since` take it: RFC 3339, seconds since 1970, a date, or a Go duration before `now`
/// (`10m`, `1h30m`).
pub fn parse_moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Some(before) = parse_duration(text) {
        return now.checked_sub(before);
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    }
    [text.to_owned(), format!("{text}Z"), format!("{text}T00:00:00Z")]
        .iter()
        .find_map(|text| parse_time(text))
}

/// A duration as Go writes it, whole numbers with units `h`, `m`, `s`, `ms`: `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let number: u64 = number.parse().ok()?;
        let milliseconds = match unit {
            "h" => number.checked_mul(3_600_000)?,
            "m" => number.checked_mul(60_000)?,
            "s" => number.checked_mul(1_000)?,
            "ms" => number,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(milliseconds))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        const HOUR: u64 = 3_600;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_599, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 1_799, "About an hour"),
            (HOUR + 1_800, "2 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * 24 * HOUR, "13 days"),
            (14 * 24 * HOUR, "2 weeks"),
            (59 * 24 * HOUR, "8 weeks"),
            (60 * 24 * HOUR, "2 months"),
            (729 * 24 * HOUR, "24 months"),
            (731 * 24 * HOUR, "2 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text, "{seconds} s");
        }
    }

    #[test]
    fn sizes_read_as_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1kB"),
            (1_234, "1.23kB"),
            (12_345_678, "12.3MB"),
            (187_600_000, "188MB"),
            (999_999, "1MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        for (bytes, text) in
            [(0, "0B"), (1_023, "1023B"), (1_536, "1.5KiB"), (1_048_575, "1MiB"), (7_842_304, "7.479MiB")]
        {
            assert_eq!(memory(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_that_are_printed_are_read_back() {
        for seconds in [0, 951_782_400, 1_709_251_199, 4_107_542_400, 1_000_000_007] {
            let moment = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
            assert_eq!(parse_time(&rkvm_oci::runtime::rfc3339(moment)), Some(moment));
        }
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(
            parse_time("1970-01-01T00:00:01.5Z").unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap(),
            Duration::from_millis(1500)
        );
        for wrong in [
            "",
            "now",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.xZ",
            "\u{e9}T\u{e9}Z",
            "1970-01-01T00:00:00+\u{e9}",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn moments_in_every_form() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seconds = |text: &str| {
            parse_moment(text, now)
                .map(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds("10m"), Some(999_400));
        assert_eq!(seconds("1h30m"), Some(994_600));
        assert_eq!(seconds("500"), Some(500));
        assert_eq!(seconds("1970-01-02"), Some(86_400));
        assert_eq!(seconds("1970-01-02T00:00:01"), Some(86_401));
        assert_eq!(seconds("1970-01-02T00:00:01Z"), Some(86_401));
        for wrong in ["", "h", "10", "10x", "m10", "yesterday", "99999999999999999999h"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
        assert_eq!(seconds("yesterday"), None);
    }
}
