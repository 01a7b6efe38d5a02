//! Times that come again: cron expressions read in a time zone, windows in which devices may be asked, runs of schedules.
//!
//! The clock on the wall decides. When it leaps over the hour of an expression that names one (`0 2 * * *` in March), that time is the
//! first instant after the gap; when the hour comes twice (in October), it is the first of the two. Expressions that step through hours
//! (`*/15 * * * *`) follow every real quarter of an hour.

mod schedule;
mod window;

pub use schedule::{Due, MAX_MISSED_LISTED, RUN_GRACE, due};
pub use window::{OpenTimes, Opening};

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, Timelike};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use muster_wire::http::MAX_CRON_BYTES;
use time::OffsetDateTime;

/// How many coming times an answer shows in words.
pub const SHOWN: usize = 3;

/// Why an expression or a time zone cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCalendar {
    /// Over [`MAX_CRON_BYTES`].
    #[error("has {0} bytes; a cron expression has at most {MAX_CRON_BYTES}")]
    TooLong(usize),
    /// Not a cron expression.
    #[error(
        "{text:?} is not a cron expression: {why}. It has five fields (minute hour day month weekday), like '0 1 * * *', or is @daily or its kind"
    )]
    NotCron {
        /// As given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A date that no year has.
    #[error("{0:?} never comes: no year has such a day")]
    Never(String),
    /// Not in the time zone database.
    #[error("{0:?} is not a time zone; it has a name like Europe/Oslo, America/New_York or UTC")]
    TimeZone(String),
}

impl InvalidCalendar {
    /// Whether the time zone is at fault, and not the expression.
    pub fn is_time_zone(&self) -> bool {
        matches!(self, Self::TimeZone(_))
    }
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Cron,
    zone: Tz,
}

impl Calendar {
    /// Reads an expression of five fields, or six with seconds first, and the IANA name of a time zone.
    ///
    /// # Errors
    /// [`InvalidCalendar`], also for an expression that can never come true.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, InvalidCalendar> {
        if cron.len() > MAX_CRON_BYTES {
            return Err(InvalidCalendar::TooLong(cron.len()));
        }
        let zone: Tz = time_zone.parse().map_err(|_| InvalidCalendar::TimeZone(time_zone.chars().take(MAX_CRON_BYTES).collect()))?;
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let parsed = parser.parse(cron).map_err(|error| InvalidCalendar::NotCron { text: cron.to_owned(), why: words(&error) })?;
        let calendar = Self { cron: parsed, zone };
        // Without years an expression that comes at all comes after any instant.
        match calendar.next_after(OffsetDateTime::UNIX_EPOCH) {
            Some(_) => Ok(calendar),
            None => Err(InvalidCalendar::Never(cron.to_owned())),
        }
    }

    /// The first time after this instant; `None` only at the end of the calendar.
    pub fn next_after(&self, after: OffsetDateTime) -> Option<OffsetDateTime> {
        self.cron.find_next_occurrence(&self.local(after)?, false).ok().and_then(|at| instant(&at))
    }

    /// The last time up to this instant, this instant included.
    pub fn last_until(&self, until: OffsetDateTime) -> Option<OffsetDateTime> {
        self.cron.find_previous_occurrence(&self.local(until)?, true).ok().and_then(|at| instant(&at))
    }

    /// The next times after this instant, at most so many.
    pub fn coming(&self, after: OffsetDateTime, count: usize) -> Vec<OffsetDateTime> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last)).take(count).collect()
    }

    /// An instant as the clock on the wall shows it: `2026-11-26 01:00 Europe/Oslo`.
    pub fn words(&self, at: OffsetDateTime) -> String {
        format!("{} {}", self.clock(at), self.zone.name())
    }

    /// The next [`SHOWN`] times in words: `2026-11-26 01:00, 2026-11-27 01:00, 2026-11-28 01:00 Europe/Oslo`.
    pub fn coming_words(&self, after: OffsetDateTime) -> String {
        let times: Vec<String> = self.coming(after, SHOWN).into_iter().map(|at| self.clock(at)).collect();
        format!("{} {}", times.join(", "), self.zone.name())
    }

    fn clock(&self, at: OffsetDateTime) -> String {
        let Some(local) = self.local(at) else { return at.to_string() };
        let mut text = format!("{:04}-{:02}-{:02} {:02}:{:02}", local.year(), local.month(), local.day(), local.hour(), local.minute());
        if local.second() > 0 {
            let _ = write!(text, ":{:02}", local.second());
        }
        text
    }

    fn local(&self, at: OffsetDateTime) -> Option<DateTime<Tz>> {
        DateTime::from_timestamp(at.unix_timestamp(), at.nanosecond()).map(|utc| utc.with_timezone(&self.zone))
    }
}

fn instant(at: &DateTime<Tz>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.timestamp()).ok()
}

/// The library's words without its own names in them.
fn words(error: &croner::errors::CronError) -> String {
    let text = error.to_string();
    let text = text.split_once(": ").map_or(text.as_str(), |(_, why)| why);
    text.trim_end_matches('.').replace("CronPattern", "the expression").replace("Pattern", "the expression")
}

#[cfg(test)]
mod tests;
