//! What a snapshot sees: `pg_current_snapshot()`.

use std::{fmt, str::FromStr};

use rowstream_api::snapshot::Visibility;

/// `xmin:xmax:xip`, 64-bit transaction ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl FromStr for Visible {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no snapshot");
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|n| n.parse::<u64>().ok()).ok_or_else(wrong);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(wrong)?;
        let ids = list.split(',').filter(|n| !n.is_empty()).map(|n| n.parse::<u64>().map_err(|_| wrong()));
        let mut in_progress = ids.collect::<Result<Vec<_>, _>>()?;
        in_progress.sort_unstable();
        Ok(Self { xmin, xmax, in_progress })
    }
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.in_progress.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, list.join(","))
    }
}

impl Visibility for Visible {
    type Transaction = u32;

    /// Whether it sees a committed transaction of the stream, whose id has 32 bits. The two are within 2³¹ of each other: older ids
    /// are frozen, and the server stops before it would assign newer ones.
    fn sees(&self, xid: &u32) -> bool {
        let full = self.extend(*xid);
        full < self.xmin || (full < self.xmax && self.in_progress.binary_search(&full).is_err())
    }
}

impl Visible {
    /// Whether a transaction of the stream, and all that are older, have ended for it. The stream may have been silent for so long
    /// that ids went round since: one that seems to be of a far future is of the past.
    #[must_use]
    pub fn has_ended_up_to(&self, xid: u32) -> bool {
        let full = self.extend(xid);
        let is_ancient = full > self.xmax + (1 << 30);
        is_ancient
            || full < self.xmin
            || (full < self.xmax && self.in_progress.first().is_none_or(|first| full < *first))
    }

    fn extend(&self, xid: u32) -> u64 {
        let epoch = self.xmax >> 32;
        let near = epoch << 32 | u64::from(xid);
        if near > self.xmax + (1 << 31) && epoch > 0 {
            near - (1 << 32)
        } else if near + (1 << 31) < self.xmax {
            near + (1 << 32)
        } else {
            near
        }
    }

    /// Whether everything that was in progress for `older` has ended.
    #[must_use]
    pub fn has_ended_all_of(&self, older: &Self) -> bool {
        self.xmin >= older.xmax
    }
}

#[cfg(test)]
mod tests {
    use rowstream_api::snapshot::Visibility as _;

    use super::Visible;

    #[test]
    fn a_snapshot_sees_what_ended_before_it() {
        let s: Visible = "10:20:12,15".parse().unwrap();
        let seen: Vec<u32> = (8..23).filter(|xid| s.sees(xid)).collect();
        assert_eq!(seen, [8, 9, 10, 11, 13, 14, 16, 17, 18, 19]);
        assert_eq!(s.to_string(), "10:20:12,15");
        assert!("10:20".parse::<Visible>().is_err());
        let ended: Vec<u32> = (8..23).filter(|xid| s.has_ended_up_to(*xid)).collect();
        assert_eq!(ended, [8, 9, 10, 11]);
        // The newest transaction of all is in progress, and the snapshot does not name it.
        let s: Visible = "20:20:".parse().unwrap();
        assert!(s.has_ended_up_to(19) && !s.has_ended_up_to(20));
        assert!(s.has_ended_up_to(20 + (1 << 30) + 1));
    }

    #[test]
    fn ids_are_extended_across_an_epoch() {
        let s: Visible = format!("{0}:{0}:", (1u64 << 32) + 5).parse().unwrap();
        assert!(s.sees(&u32::MAX) && s.sees(&4) && !s.sees(&5) && !s.sees(&100));
        let s: Visible = format!("{0}:{0}:", (1u64 << 32) - 2).parse().unwrap();
        assert!(s.sees(&(u32::MAX - 5)) && !s.sees(&3));
    }
}
