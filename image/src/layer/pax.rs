//! PAX extended headers (pax(1), "pax Extended Header"), and the attributes and sparse maps that they carry.

/// A key and its value.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Reads the records of an extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record. Values may have any
/// byte in them, newlines too, so the length decides, not the newline.
pub(super) fn records(mut data: &[u8]) -> Result<Vec<Pair<'_>>, String> {
    let mut records = vec![];
    // Some writers pad with zero bytes.
    while let Some(first) = data.first() {
        if *first == 0 {
            break;
        }
        let space =
            data.iter().position(|byte| *byte == b' ').ok_or("an extended header record has no length")?;
        let length = decimal(&data[..space]).ok_or("an extended header record's length is not a number")?;
        let length = usize::try_from(length).map_err(|_| "an extended header record is too long")?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err("an extended header record's length is wrong".to_owned());
        }
        let record = &data[space + 1..length - 1];
        let equals =
            record.iter().position(|byte| *byte == b'=').ok_or("an extended header record has no value")?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Ok(records)
}

/// A number in decimal digits, nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds and nanoseconds of `1700000000.123456789`, which may be negative.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_have_newlines_and_equal_signs() {
        let data = b"13 a=x\ny=\nz1\n5 b=\n\0\0";
        assert_eq!(records(data).unwrap(), [(&b"a"[..], &b"x\ny=\nz1"[..]), (b"b", b"")]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for data in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"x a=b\n",
            b"2 ",
            b"3 a",
            b"18446744073709551616 a=b\n",
            b"6 abc\n",
        ] {
            assert!(records(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn times_are_read_with_their_fraction() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"1.x"), None);
    }
}
