//! What each type makes of each JSON value.

use super::*;
use crate::matomo::memory::FallibleText;

/// What the type makes of JSON: its text, NULL, or that it does not fit.
fn written(kind: ColumnType, sent: &str) -> String {
    let raw = RawValue::from_string(sent.to_owned()).unwrap();
    let mut text = FallibleText::default();
    let fits = kind.write(&mut Cells(&mut text), Value::Sent(&raw));
    let cell = text.strip_suffix('\t').unwrap();
    match (fits, cell) {
        (true, r"\N") => "NULL".to_owned(),
        (true, cell) => cell.to_owned(),
        (false, r"\N") => "misfit".to_owned(),
        (false, cell) => panic!("a misfit is written: {cell}"),
    }
}

#[test]
fn instants_and_days_as_postgres_shows_them() {
    let mut text = FallibleText::default();
    for at in ["0001-01-01T00:00:00Z", "2026-11-13T21:42:04Z", "9999-12-31T23:59:59Z"] {
        let at: DateTime<Utc> = at.parse().unwrap();
        let mut cells = Cells(&mut text);
        assert!(ColumnType::Timestamptz.write(&mut cells, Value::Instant(at)));
        assert!(ColumnType::Date.write(&mut cells, Value::Day(at.date_naive())));
    }
    let shown: Vec<_> = text.split_terminator('\t').collect();
    assert_eq!(
        shown,
        [
            "0001-01-01 00:00:00+00",
            "0001-01-01",
            "2026-11-13 21:42:04+00",
            "2026-11-13",
            "9999-12-31 23:59:59+00",
            "9999-12-31",
        ]
    );
}

#[test]
fn what_a_type_cannot_hold_is_null_and_told() {
    let int = ColumnType::of("int4", -1);
    for (kind, sent, expected) in [
        (int, "12", "12"),
        (int, r#"" 12 ""#, "12"),
        (int, "12.0", "12"),
        (int, "1e3", "1000"),
        (int, "-0", "0"),
        (int, r#""007""#, "7"),
        (int, r#""+7""#, "7"),
        (int, "12.5", "misfit"),
        (int, "2147483648", "misfit"),
        (int, "1e400", "misfit"),
        (int, r#""NaN""#, "misfit"),
        (int, r#""""#, "NULL"),
        (int, "null", "NULL"),
        (int, "[1]", "misfit"),
        (int, "{}", "misfit"),
        (int, "true", "misfit"),
        (ColumnType::of("int2", -1), "40000", "misfit"),
        (ColumnType::of("int8", -1), "9223372036854775807", "9223372036854775807"),
        (ColumnType::of("int8", -1), "9223372036854775808", "misfit"),
        (ColumnType::of("numeric", -1), "266.350", "266.350"),
        (ColumnType::of("numeric", -1), r#""12 apples""#, "misfit"),
        (ColumnType::of("numeric", -1), "1e400", &format!("1{}", "0".repeat(400))),
        (ColumnType::of("numeric", -1), "1e99999", "misfit"),
        // numeric(5,2), numeric(2,-3), numeric(3,5).
        (ColumnType::of("numeric", (5 << 16 | 2) + 4), "999.99", "999.99"),
        (ColumnType::of("numeric", (5 << 16 | 2) + 4), "999.994", "999.994"),
        (ColumnType::of("numeric", (5 << 16 | 2) + 4), "999.995", "misfit"),
        (ColumnType::of("numeric", (2 << 16 | (2048 - 3)) + 4), "99000", "99000"),
        (ColumnType::of("numeric", (2 << 16 | (2048 - 3)) + 4), "100000", "misfit"),
        (ColumnType::of("numeric", (3 << 16 | 5) + 4), "0.00999", "0.00999"),
        (ColumnType::of("numeric", (3 << 16 | 5) + 4), "0.01", "misfit"),
        (ColumnType::Float, r#""25.019300""#, "25.0193"),
        (ColumnType::Float, "1e400", "misfit"),
        (ColumnType::Float, r#""inf""#, "misfit"),
        (ColumnType::Float, "1e-400", "misfit"),
        (ColumnType::Float, "1e-5", "0.00001"),
        (ColumnType::Float, "-0.0e5", "-0"),
        (ColumnType::Real, "1e-60", "misfit"),
        (ColumnType::Real, "0.00", "0"),
        (ColumnType::Boolean, "1", "t"),
        (ColumnType::Boolean, r#""0""#, "f"),
        (ColumnType::Boolean, "false", "f"),
        (ColumnType::Boolean, "2", "misfit"),
        (ColumnType::Time, r#""21:42:04""#, "21:42:04"),
        (ColumnType::Time, r#""23:59:60""#, "23:59:60"),
        (ColumnType::Time, r#""9:05""#, "09:05:00"),
        (ColumnType::Time, r#""25:00:00""#, "misfit"),
        (ColumnType::Time, r#""12:60:00""#, "misfit"),
        (ColumnType::Time, r#""12:0x:00""#, "misfit"),
        (ColumnType::Date, r#""2026-11-13""#, "2026-11-13"),
        (ColumnType::Date, r#""10000-01-01""#, "misfit"),
        (ColumnType::Date, r#""2026-02-30""#, "misfit"),
        (ColumnType::Date, r#""2026-11-13 21:42:04""#, "2026-11-13"),
        (ColumnType::Date, r#""2026-11-13T21:42:04.5Z""#, "2026-11-13"),
        (ColumnType::Date, r#""2026-11-13 00:00:00+00""#, "2026-11-13"),
        (ColumnType::Date, r#""2026-11-13 tomorrow""#, "misfit"),
        (ColumnType::Date, r#""2026-11-13T23:30:00-05:00""#, "misfit"),
        (ColumnType::Timestamptz, r#""2026-11-13 21:42:04""#, "2026-11-13 21:42:04+00"),
        (ColumnType::Timestamp, r#""2026-11-13 21:42:04""#, "2026-11-13 21:42:04"),
        (ColumnType::Timestamptz, r#""soon""#, "misfit"),
        (ColumnType::of("varchar", 7), r#""été""#, "été"),
        (ColumnType::of("varchar", 7), r#""étés""#, "misfit"),
        (ColumnType::of("varchar", -1), r#""étés""#, "étés"),
        (ColumnType::Jsonb, r#"{"bb":1,"a":[]}"#, r#"{"a": [], "bb": 1}"#),
        (ColumnType::Jsonb, r#""""#, "NULL"),
        (ColumnType::Json, r#""""#, "NULL"),
        (ColumnType::Json, r#"" ""#, r#"" ""#),
        (ColumnType::of("varchar", 7), r#""""#, ""),
        (ColumnType::of("name", -1), r#""""#, ""),
        (ColumnType::of("_text", -1), r#"["a","b c",null,""]"#, r#"{a,"b c",NULL,""}"#),
        (ColumnType::of("_text", -1), "[]", "{}"),
        (ColumnType::of("_text", -1), r#""Cat A""#, r#"{"Cat A"}"#),
        (ColumnType::of("_text", -1), "7", "misfit"),
        (ColumnType::of("_text", -1), r#"{"a":"b"}"#, "misfit"),
        (ColumnType::of("_varchar", -1), r#"["étés"]"#, "{étés}"),
        (ColumnType::of("_varchar", 7), r#"["été",null,"a"]"#, "{été,NULL,a}"),
        (ColumnType::of("_varchar", 7), r#"["a","étés"]"#, "misfit"),
        (ColumnType::of("_varchar", 7), r#""étés""#, "misfit"),
        (ColumnType::of("_varchar", 7), "[10000]", "misfit"),
        (ColumnType::of("_bpchar", 7), r#"["abc"]"#, "{abc}"),
        (ColumnType::of("_bpchar", 7), r#"["abcd"]"#, "misfit"),
        (
            ColumnType::of("name", -1),
            &format!("\"{}é\"", "x".repeat(61)),
            &format!("{}é", "x".repeat(61)),
        ),
        (ColumnType::of("name", -1), &format!("\"{}é\"", "x".repeat(62)), "misfit"),
        (ColumnType::of("char", -1), r#""a""#, "a"),
        (ColumnType::of("char", -1), r#""ab""#, "misfit"),
        (ColumnType::Text, "1e400", "1e400"),
        (ColumnType::Text, r#""""#, ""),
        (ColumnType::Other, "7", "7"),
    ] {
        assert_eq!(written(kind, sent), expected, "{kind:?} {sent}");
    }
}

#[test]
fn an_empty_default_is_no_value_of_a_type_that_is_no_text() {
    for kind in [ColumnType::Other, ColumnType::Json, ColumnType::Jsonb, ColumnType::Date] {
        let mut text = FallibleText::default();
        assert!(kind.write(&mut Cells(&mut text), Value::Text("")));
        assert_eq!(&*text, "\\N\t", "{kind:?}");
    }
}
