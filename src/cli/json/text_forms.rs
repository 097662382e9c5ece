//! The text that some values are written as. The checks catch what was mistyped; Python has the last word.

/// A float that JSON has no number for.
pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        "nan" => Some(f64::NAN),
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The text of such a float.
pub(super) fn float_name(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("nan"),
        f64::INFINITY => Some("inf"),
        f64::NEG_INFINITY => Some("-inf"),
        _ => None,
    }
}

/// Whether the text has the form of `datetime.isoformat()`: date, a `T` or a space, time, perhaps an offset.
pub(super) fn is_datetime(text: &str) -> bool {
    text.split_once(['T', ' '])
        .is_some_and(|(date, time)| is_date(date) && is_time(time))
}

/// Whether the text has the form of `date.isoformat()`.
pub(super) fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    match parts.as_slice() {
        [year, month, day] => {
            number(year, 4).is_some_and(|year| year >= 1)
                && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
                && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
        }
        _ => false,
    }
}

/// Whether the text has the form of `time.isoformat()`, perhaps with an offset.
pub(super) fn is_time(text: &str) -> bool {
    let (clock, offset) = match text.find(['+', '-']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text.strip_suffix('Z').unwrap_or(text), None),
    };
    is_clock(clock) && offset.is_none_or(is_clock)
}

/// `12:00`, `12:00:00` or with a fraction of 3 or 6 digits.
fn is_clock(text: &str) -> bool {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let parts: Vec<_> = whole.split(':').collect();
    let in_range = match parts.as_slice() {
        [hour, rest @ ..] if (1..=2).contains(&rest.len()) => {
            number(hour, 2).is_some_and(|hour| hour < 24)
                && rest
                    .iter()
                    .all(|part| number(part, 2).is_some_and(|part| part < 60))
        }
        _ => false,
    };
    let whole_fraction = fraction.is_none_or(|fraction| {
        parts.len() == 3 && (number(fraction, 3).is_some() || number(fraction, 6).is_some())
    });
    in_range && whole_fraction
}

fn number(text: &str, digits: usize) -> Option<u32> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Whether the text is one that `decimal.Decimal` takes.
pub(super) fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if ["nan", "snan", "inf", "infinity"].contains(&unsigned.to_ascii_lowercase().as_str()) {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_is_number = exponent.is_none_or(|exponent| {
        let unsigned = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !unsigned.is_empty() && digits(unsigned)
    });
    digits(whole) && digits(fraction) && whole.len() + fraction.len() > 0 && exponent_is_number
}

/// The bytes of a UUID, from hex digits with or without dashes.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let well_formed = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = u128::from_str_radix(&digits, 16).ok()?;
    well_formed.then_some(bits.to_be_bytes())
}

/// A UUID as Python writes it.
pub(super) fn uuid_text(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

/// Bytes of one element of a plain NumPy dtype such as `<f8`, `|u1` or `<c16`.
pub(super) fn item_size(dtype: &str) -> Option<u64> {
    let rest = dtype.strip_prefix(['<', '>', '|', '='])?;
    let (kind, size) = (rest.chars().next()?, rest.get(1..)?);
    let size: u64 = size.parse().ok()?;
    let known = match kind {
        'b' => size == 1,
        'i' | 'u' => [1, 2, 4, 8].contains(&size),
        'f' => [2, 4, 8, 16].contains(&size),
        'c' => [8, 16, 32].contains(&size),
        // Text is counted in characters of four bytes.
        'U' => return size.checked_mul(4),
        'S' => true,
        _ => false,
    };
    known.then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_python_writes_them_are_taken() {
        for text in [
            "12:00",
            "23:59:59",
            "12:00:00.000001",
            "12:00:00.001",
            "12:00:00+05:30",
            "12:00:00-00:00:30",
            "12:00:00Z",
        ] {
            assert!(is_time(text), "{text}");
        }
        for text in [
            "",
            "24:00:00",
            "12",
            "12:60",
            "1:00",
            "12:00:00.5",
            "12:00+",
            "+12:00",
            "12:00:00+5",
        ] {
            assert!(!is_time(text), "{text}");
        }
    }

    #[test]
    fn decimals_as_python_takes_them_are_taken() {
        for text in ["1", "-1.10", "+.5", "5.", "1E+3", "1e-7", "NaN", "-Infinity"] {
            assert!(is_decimal(text), "{text}");
        }
        for text in ["", "-", ".", "1e", "1 ", "0x1", "1.2.3"] {
            assert!(!is_decimal(text), "{text}");
        }
    }
}
