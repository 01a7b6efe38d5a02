//! Windows: times at which devices may be asked.

use std::time::Duration;

use muster_wire::http::Window;
use time::OffsetDateTime;

use super::{Calendar, InvalidCalendar};

/// When a window opens, again and again.
#[derive(Debug, Clone)]
pub struct OpenTimes {
    calendar: Calendar,
    length: Duration,
}

/// One opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// From here on.
    pub from: OffsetDateTime,
    /// Up to here, this instant not included. So many real hours later as the window is long, whatever the clock on the wall does.
    pub until: OffsetDateTime,
}

impl Opening {
    /// Whether it is open now.
    pub fn contains(&self, now: OffsetDateTime) -> bool {
        (self.from..self.until).contains(&now)
    }
}

impl OpenTimes {
    /// Reads a window.
    ///
    /// # Errors
    /// [`InvalidCalendar`].
    pub fn parse(window: &Window) -> Result<Self, InvalidCalendar> {
        let calendar = Calendar::parse(&window.cron, &window.time_zone)?;
        Ok(Self { calendar, length: Duration::from_secs(window.length_seconds) })
    }

    /// The opening that is now, or the next one; `None` only at the end of the calendar.
    pub fn opening(&self, now: OffsetDateTime) -> Option<Opening> {
        let from = |from: OffsetDateTime| Some(Opening { from, until: from.checked_add(self.length.try_into().ok()?)? });
        // The last time it opened ends last, so it alone says whether it is open.
        let last = self.calendar.last_until(now).and_then(from).filter(|opening| opening.contains(now));
        last.or_else(|| self.calendar.next_after(now).and_then(from))
    }

    /// `open until 2026-11-26 04:00 Europe/Oslo`, or `opens 2026-11-26 01:00 Europe/Oslo`.
    pub fn words(&self, now: OffsetDateTime) -> String {
        match self.opening(now) {
            Some(opening) if opening.contains(now) => format!("open until {}", self.calendar.words(opening.until)),
            Some(opening) => format!("opens {}", self.calendar.words(opening.from)),
            None => "never opens again".to_owned(),
        }
    }

    /// The times at which it opens.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }
}
