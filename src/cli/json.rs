//! JSON as values and values as JSON, by the table of `proto/VALUES.md`.
//!
//! What JSON has no word for is an object with one key that begins with a dollar sign: `{"$bytes": "aGk="}`. So that
//! every value reads back as itself, a dict that would look like one is written as `{"$map": [[key, value], ...]}`.

mod forms;
mod read;
mod text_forms;
mod tree;
mod write;

pub(crate) use read::{JsonError, parse, parse_line};
pub(crate) use write::AsJson;

/// The words for what JSON lacks, for error messages.
const FORMS: &str = "$float, $bytes, $map, $set, $datetime, $date, $time, $timedelta, $decimal, $uuid, $complex, $ndarray, $arrow_batch, $arrow_table";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn back(text: &str) -> String {
        let value = parse(text).unwrap();
        serde_json::to_string(&AsJson(&value)).unwrap()
    }

    #[test]
    fn every_row_of_the_table_reads_and_writes_as_itself() {
        for text in [
            "null",
            "true",
            "-3",
            "18446744073709551615",
            "-9223372036854775808",
            "1.5",
            "5.0",
            "-30000.0",
            r#""ä \" \n""#,
            "[]",
            "{}",
            r#"{"b":1,"a":[null,{"c":2.5}]}"#,
            r#"{"$float":"nan"}"#,
            r#"{"$float":"inf"}"#,
            r#"{"$float":"-inf"}"#,
            r#"{"$bytes":"AAH/"}"#,
            r#"{"$bytes":""}"#,
            r#"{"$map":[[1,"a"],[null,{"$bytes":"AA=="}]]}"#,
            r#"{"$map":[["$bytes","a dict that looks like bytes"]]}"#,
            r#"{"$a":1,"$b":2}"#,
            r#"{"$set":[1,"x"]}"#,
            r#"{"$datetime":"2026-01-31T12:00:00+00:00"}"#,
            r#"{"$datetime":"2026-01-31T12:00:00.000001"}"#,
            r#"{"$date":"2026-01-31"}"#,
            r#"{"$time":"12:00:00"}"#,
            r#"{"$timedelta":[-1,86399,5]}"#,
            r#"{"$decimal":"1.10"}"#,
            r#"{"$uuid":"01234567-89ab-cdef-0123-456789abcdef"}"#,
            r#"{"$complex":[1.0,-2.5]}"#,
            r#"{"$complex":[{"$float":"nan"},0.0]}"#,
            r#"{"$ndarray":{"dtype":"<f8","shape":[1],"data":"AAAAAAAAAAA="}}"#,
            r#"{"$arrow_batch":"AAEC"}"#,
            r#"{"$arrow_table":"AAEC"}"#,
        ] {
            assert_eq!(back(text), text);
        }
    }

    #[test]
    fn other_spellings_are_read_too() {
        for (text, canonical) in [
            ("-3e4", "-30000.0"),
            (r#" { "a" : 1 } "#, r#"{"a":1}"#),
            (r#"{"$bytes": "aGk"}"#, r#"{"$bytes":"aGk="}"#),
            (r#"{"$complex": [1, 2]}"#, r#"{"$complex":[1.0,2.0]}"#),
            (r#"{"$float": 1}"#, "1.0"),
            (
                r#"{"$uuid": "0123456789ABCDEF0123456789abcdef"}"#,
                r#"{"$uuid":"01234567-89ab-cdef-0123-456789abcdef"}"#,
            ),
        ] {
            assert_eq!(back(text), canonical);
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_told_with_its_place_and_what_would_be_right() {
        for (text, told) in [
            ("abc", "\"abc\""),
            ("'abc'", "\"abc\""),
            ("[1,", "EOF"),
            ("True", "true"),
            ("None", "null"),
            ("NaN", r#"{"$float": "nan"}"#),
            ("18446744073709551616", "18446744073709551615"),
            ("[1, -9223372036854775809]", "-9223372036854775808"),
            (r#"{"a": [{"$byte": 1}]}"#, r#"["a"][0]"#),
            (r#"{"$byte": 1}"#, "$bytes"),
            (r#"{"$bytes": "*"}"#, "base64"),
            (r#"{"$date": "2026-1-1"}"#, "2026-01-31"),
            (r#"{"$datetime": "2026-01-01"}"#, "T12:00"),
            (r#"{"$time": "noon"}"#, "12:00:00"),
            (r#"{"$uuid": "12"}"#, "32 hex digits"),
            (r#"{"$decimal": "1,5"}"#, "\"1.10\""),
            (r#"{"$float": "nam"}"#, "nan"),
            (r#"{"$complex": [1]}"#, "[re, im]"),
            (r#"{"$timedelta": [1, 2]}"#, "[days, seconds, microseconds]"),
            (r#"{"$map": [[1]]}"#, "[key, value]"),
            (r#"{"$ndarray": {"dtype": "<f8"}}"#, "shape"),
            (r#"{"$arrow_table": 1}"#, "base64 text of a stream"),
            (
                r#"{"$ndarray": {"dtype": "<f8", "shape": [2], "data": "AAAAAAAAAAA="}}"#,
                "16 bytes",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_inside_a_string_is_not_a_number_too_large() {
        let text = r#""18446744073709551616 \" 99999999999999999999""#;
        assert_eq!(back(text), text);
        assert_eq!(parse("1e30").unwrap(), snakepit::Value::Float(1e30));
    }
}
