//! Times as the database keeps them: whole milliseconds since 1970, in UTC.

use time::OffsetDateTime;

use crate::StoreError;

pub(crate) fn to_ms(at: OffsetDateTime) -> i64 {
    // Years ±9999 in milliseconds need 49 bits.
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

pub(crate) fn from_ms(ms: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .map_err(|_| StoreError::Inconsistent(format!("{ms} milliseconds since 1970 is no time of this calendar")))
}

pub(crate) fn maybe_from_ms(ms: Option<i64>) -> Result<Option<OffsetDateTime>, StoreError> {
    ms.map(from_ms).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn milliseconds_come_back_and_fractions_are_cut() {
        for at in [datetime!(2026-11-21 12:00:00.123 UTC), datetime!(1969-12-31 23:59:59.999 UTC), datetime!(9999-12-31 23:59:59 UTC)] {
            assert_eq!(from_ms(to_ms(at)).expect("in the calendar"), at);
        }
        assert_eq!(to_ms(datetime!(2026-11-21 12:00:00.123456 UTC)) % 1000, 123);
        assert!(from_ms(i64::MAX).is_err());
    }
}
