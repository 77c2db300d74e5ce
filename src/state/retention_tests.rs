use super::*;

fn last(timezone: &str, before: &str) -> String {
    let before = before.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    last_day(timezone, before).unwrap().to_string()
}

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

#[test]
fn a_day_is_dropped_when_it_ends_before() {
    assert_eq!(last("UTC", "2026-11-24T00:00:00Z"), "2026-11-23");
    assert_eq!(last("UTC", "2026-11-23T23:59:59Z"), "2026-11-22");
    assert_eq!(last("Europe/Paris", "2026-11-23T23:00:00Z"), "2026-11-23");
    assert_eq!(last("Europe/Paris", "2026-11-23T22:59:59Z"), "2026-11-22");
    assert_eq!(last("UTC-3.5", "2026-11-24T03:30:00Z"), "2026-11-23");
    assert_eq!(last("America/New_York", "2026-11-24T00:00:00Z"), "2026-11-22");
}
