//! Progress of a run, in its row of `matomo_run_log`. SPI only.

use chrono::{NaiveDate, Utc};

use crate::error::{Error, Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query};
use crate::rows::batch::Misfits;
use crate::store::written::Written;

/// A row of `matomo_run_log`.
#[derive(Debug, Clone)]
pub struct Run {
    pub run: i64,
    pub site: i32,
    /// When it started, in Unix seconds.
    pub began: i64,
    pub days: i32,
    pub visits: i64,
    pub actions: i64,
    pub truncated_visits: i64,
    pub misfits: Misfits,
    /// Pages of a day per step, if reduced after an interrupted run.
    pub step_pages: Option<i32>,
    /// The first day that is not done.
    pub next_day: Option<NaiveDate>,
    /// Later days that are done.
    pub done: Vec<NaiveDate>,
    /// Timezone of the site, as reported by Matomo.
    pub timezone: Option<String>,
    /// How often that has changed.
    pub zone_changes: i32,
}

/// Counts of a step.
#[derive(Debug, Default)]
pub struct StepCounts {
    /// Days that the step has finished.
    pub days: Vec<NaiveDate>,
    /// Pages requested.
    pub pages: i64,
    pub visits: i64,
    pub actions: i64,
    /// Visits for which Matomo listed only their first actions.
    pub truncated_visits: i64,
    pub misfits: Misfits,
    pub written: Written,
    /// Size of the answers, after decompression.
    pub bytes: u64,
}

impl Run {
    /// Reads the row of a run.
    ///
    /// # Errors
    /// [`SiteError::NoRun`].
    pub fn get(extension: &Extension, run: i64) -> Result<Run> {
        let sql = format!(
            "SELECT site_id, date_part('epoch', start_time), days, visits, actions, truncated_visits, \
                 next_day::text, array_to_string(done, ','), timezone, step_pages, misfits::text, \
                 zone_changes \
             FROM {}.matomo_run_log WHERE runid = $1",
            extension.schema
        );
        extension.run(|client| {
            let row = query(client, &sql, &[run.into()])?.next().ok_or(SiteError::NoRun(run))?;
            let corrupt = || Error::Internal("invalid row in matomo_run_log".to_owned());
            let parse = |text: &str| text.parse::<NaiveDate>().map_err(|_| corrupt());
            let next_day: Option<String> = get(&row, 7)?;
            let done: Option<String> = get(&row, 8)?;
            let done = done.unwrap_or_default();
            let misfits: Option<String> = get(&row, 11)?;
            Ok(Run {
                run,
                site: get(&row, 1)?.ok_or_else(corrupt)?,
                began: get::<f64>(&row, 2)?.ok_or_else(corrupt)? as i64,
                days: get(&row, 3)?.ok_or_else(corrupt)?,
                visits: get(&row, 4)?.ok_or_else(corrupt)?,
                actions: get(&row, 5)?.ok_or_else(corrupt)?,
                truncated_visits: get(&row, 6)?.ok_or_else(corrupt)?,
                misfits: Misfits(
                    serde_json::from_str(misfits.as_deref().unwrap_or("{}"))
                        .map_err(|_| corrupt())?,
                ),
                next_day: next_day.as_deref().map(parse).transpose()?,
                done: done
                    .split(',')
                    .filter(|day| !day.is_empty())
                    .map(parse)
                    .collect::<Result<_>>()?,
                timezone: get(&row, 9)?,
                step_pages: get(&row, 10)?,
                zone_changes: get(&row, 12)?.ok_or_else(corrupt)?,
            })
        })
    }

    /// Moves a start in the future to now, for a clock that was set back: otherwise the days that the run
    /// has read would not count, and be read again and again.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn follow_clock(&mut self, extension: &Extension) -> Result<()> {
        let now = Utc::now().timestamp();
        if self.began <= now {
            return Ok(());
        }
        self.began = now;
        let sql = format!(
            "UPDATE {}.matomo_run_log SET start_time = to_timestamp($2) WHERE runid = $1",
            extension.schema
        );
        let args = [self.run.into(), (now as f64).into()];
        extension.run(|client| query(client, &sql, &args).map(drop))
    }

    /// Marks all days as not done, after a change of the timezone.
    pub fn begin_anew(&mut self) {
        self.next_day = None;
        self.done.clear();
    }

    /// Whether a day is not done.
    pub fn has_to_do(&self, day: NaiveDate) -> bool {
        self.next_day.is_none_or(|next| day >= next) && !self.done.contains(&day)
    }

    /// Records a step. `due` are the days that were due before it. Returns how many of them are left.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn add(
        &mut self,
        extension: &Extension,
        due: &[NaiveDate],
        step: &StepCounts,
    ) -> Result<usize> {
        self.done.extend(&step.days);
        let new_days = i32::try_from(step.days.len()).unwrap_or(i32::MAX);
        let left: Vec<_> = due.iter().filter(|day| !self.done.contains(day)).collect();
        if let Some(next) = left.first().copied().copied() {
            self.next_day = Some(next);
        } else if let Some(last) = due.last() {
            self.next_day = last.succ_opt();
        }
        self.done.retain(|day| Some(*day) > self.next_day);
        self.days += new_days;
        self.truncated_visits += step.truncated_visits;
        self.misfits.merge(&step.misfits);
        let total = self.days.saturating_add(i32::try_from(left.len()).unwrap_or(i32::MAX));
        let done: Vec<_> = self.done.iter().map(NaiveDate::to_string).collect();
        let sql = format!(
            "UPDATE {}.matomo_run_log SET days = $2, days_total = $3, pages = pages + $4, \
                 visits = visits + $5, actions = actions + $6, inserted = inserted + $7, \
                 updated = updated + $8, deleted = deleted + $9, truncated_visits = $10, \
                 bytes = bytes + $11, next_day = $12::date, done = $13::text[]::date[], timezone = $14, misfits = $15::jsonb, \
                 zone_changes = $16, step_at = clock_timestamp() \
             WHERE runid = $1",
            extension.schema
        );
        let args = [
            self.run.into(),
            self.days.into(),
            total.into(),
            step.pages.into(),
            step.visits.into(),
            step.actions.into(),
            step.written.inserted.into(),
            step.written.updated.into(),
            step.written.deleted.into(),
            self.truncated_visits.into(),
            i64::try_from(step.bytes).unwrap_or(i64::MAX).into(),
            self.next_day.map(|day| day.to_string()).into(),
            done.into(),
            self.timezone.as_deref().into(),
            serde_json::to_string(&self.misfits.0).unwrap_or_default().into(),
            self.zone_changes.into(),
        ];
        extension.run(|client| query(client, &sql, &args).map(drop))?;
        Ok(left.len())
    }
}
