use super::*;

#[test]
fn a_retention_counts_back_as_postgres_does() {
    let day = NaiveDate::from_ymd_opt(2026, 3, 31).unwrap();
    let back = |months, days, micros| before(day, months, days, micros).map(|d| d.to_string());
    assert_eq!(back(1, 0, 0).as_deref(), Some("2026-02-28"));
    assert_eq!(back(1, -3, 0).as_deref(), Some("2026-03-03"));
    assert_eq!(back(0, 1, 1).as_deref(), Some("2026-03-29"));
    assert_eq!(back(0, 0, 86_400_000_000).as_deref(), Some("2026-03-30"));
    assert_eq!(back(0, i32::MAX, 0), None);
    assert_eq!(back(i32::MIN, i32::MIN, i64::MAX), None);
    assert_eq!(back(0, 0, i64::MIN + 1), None);
}
