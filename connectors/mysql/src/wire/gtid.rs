//! Global transaction ids of both servers: MySQL's sets (tags included) and MariaDB's last transaction of each domain.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

/// A source of MySQL's ids: server uuid and tag (empty for none).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsid {
    /// Server.
    pub uuid: [u8; 16],
    /// Tag.
    pub tag: Arc<str>,
}

/// One transaction's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// MySQL.
    MySql {
        /// Who gave it.
        tsid: Tsid,
        /// Its number.
        number: u64,
    },
    /// MariaDB.
    MariaDb {
        /// Domain.
        domain: u32,
        /// Who gave it.
        server: u32,
        /// Its number in the domain.
        sequence: u64,
    },
}

impl fmt::Display for Tsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.uuid.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_char('-')?;
            }
            write!(f, "{byte:02x}")?;
        }
        if self.tag.is_empty() { Ok(()) } else { write!(f, ":{}", self.tag) }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql { tsid, number } => write!(f, "{tsid}:{number}"),
            Self::MariaDb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

/// A set of MySQL's ids: for each source, intervals with both ends in, sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidSet(BTreeMap<Tsid, Vec<(u64, u64)>>);

impl GtidSet {
    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has this one.
    #[must_use]
    pub fn contains(&self, tsid: &Tsid, number: u64) -> bool {
        let Some(intervals) = self.0.get(tsid) else { return false };
        let after = intervals.partition_point(|(start, _)| *start <= number);
        after.checked_sub(1).and_then(|i| intervals.get(i)).is_some_and(|(_, end)| number <= *end)
    }

    /// Adds one.
    pub fn insert(&mut self, tsid: &Tsid, number: u64) {
        match self.0.get_mut(tsid) {
            // Nearly always the next one.
            Some(intervals) => match intervals.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(number) => *end = number,
                Some(_) | None => add(intervals, (number, number)),
            },
            None => {
                self.0.insert(tsid.clone(), vec![(number, number)]);
            }
        }
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = BTreeMap::new();
        for (tsid, intervals) in &self.0 {
            let mut rest = Vec::new();
            let taken = other.0.get(tsid).map(Vec::as_slice).unwrap_or_default();
            for (start, end) in intervals {
                let mut from = Some(*start);
                for (a, b) in taken.iter().filter(|(a, b)| *b >= *start && *a <= *end) {
                    match from {
                        Some(first) if first < *a => rest.push((first, *a - 1)),
                        Some(_) | None => {}
                    }
                    from = b.checked_add(1).filter(|next| next <= end);
                }
                rest.extend(from.map(|first| (first, *end)));
            }
            if !rest.is_empty() {
                left.insert(tsid.clone(), rest);
            }
        }
        Self(left)
    }

    /// Whether all of it is in `other`.
    #[must_use]
    pub fn is_in(&self, other: &Self) -> bool {
        self.without(other).is_empty()
    }

    /// The id of a set of one.
    #[must_use]
    pub fn single(&self) -> Option<(&Tsid, u64)> {
        let (tsid, intervals) = self.0.first_key_value()?;
        match intervals.as_slice() {
            [(start, end)] if start == end && self.0.len() == 1 => Some((tsid, *start)),
            _ => None,
        }
    }

    /// Whether anything of it was given by this server.
    #[must_use]
    pub fn has_of(&self, uuid: &str) -> bool {
        parse_uuid(uuid).is_some_and(|uuid| self.0.keys().any(|tsid| tsid.uuid == uuid))
    }

    /// As COM_BINLOG_DUMP_GTID takes it. Tags need the form that 8.3 brought, which older servers do not know.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let tagged = self.0.keys().any(|tsid| !tsid.tag.is_empty());
        let count = u64::try_from(self.0.len()).unwrap_or(0);
        // Gtid_set::encode: the format stands in the first and the last byte, which are 0 in the old form.
        let header = if tagged { count << 8 | 1 | 1 << 56 } else { count };
        let mut out = header.to_le_bytes().to_vec();
        for (tsid, intervals) in &self.0 {
            out.extend_from_slice(&tsid.uuid);
            if tagged {
                // At most 32 characters: a varlen number below 128 is twice itself.
                out.push(u8::try_from(tsid.tag.len() * 2).unwrap_or(0));
                out.extend_from_slice(tsid.tag.as_bytes());
            }
            out.extend_from_slice(&u64::try_from(intervals.len()).unwrap_or(0).to_le_bytes());
            for (start, end) in intervals {
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(&end.saturating_add(1).to_le_bytes());
            }
        }
        out
    }
}

/// Adds an interval to sorted ones, joining neighbours.
fn add(intervals: &mut Vec<(u64, u64)>, (mut start, mut end): (u64, u64)) {
    let first = intervals.partition_point(|(_, b)| b.saturating_add(1) < start);
    let last = intervals.partition_point(|(a, _)| *a <= end.saturating_add(1));
    if let Some(joined) = intervals.get(first..last).filter(|joined| !joined.is_empty()) {
        start = joined.first().map_or(start, |(a, _)| start.min(*a));
        end = joined.last().map_or(end, |(_, b)| end.max(*b));
        intervals.splice(first..last, [(start, end)]);
    } else {
        intervals.insert(first.min(intervals.len()), (start, end));
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (tsid, intervals)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char(',')?;
            }
            write!(f, "{tsid}")?;
            for (start, end) in intervals {
                if start == end { write!(f, ":{start}")? } else { write!(f, ":{start}-{end}")? }
            }
        }
        Ok(())
    }
}

/// A text is no set of ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no GTID set")]
pub struct NotGtids(String);

impl FromStr for GtidSet {
    type Err = NotGtids;

    /// `uuid:1-5:7,uuid:tag:1-3`; a tag holds for what follows it up to the comma.
    fn from_str(text: &str) -> Result<Self, NotGtids> {
        let wrong = || NotGtids(text.to_owned());
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut pieces = part.split(':').map(str::trim);
            let uuid = pieces.next().and_then(parse_uuid).ok_or_else(wrong)?;
            let mut tsid = Tsid { uuid, tag: "".into() };
            for piece in pieces {
                let (start, end) = piece.split_once('-').unwrap_or((piece, piece));
                match (start.parse::<u64>(), end.parse::<u64>()) {
                    (Ok(start), Ok(end)) if (1..=end).contains(&start) => {
                        add(set.0.entry(tsid.clone()).or_default(), (start, end));
                    }
                    _ if piece.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                        tsid.tag = piece.to_ascii_lowercase().into();
                    }
                    _ => return Err(wrong()),
                }
            }
        }
        Ok(set)
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = text.bytes().filter(|b| *b != b'-').map(|b| char::from(b).to_digit(16));
    for byte in &mut uuid {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    (digits.next().is_none() && text.len() >= 32).then_some(uuid)
}

/// MariaDB's position: the last transaction of each domain, as server and number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domains(BTreeMap<u32, (u32, u64)>);

impl Domains {
    /// The last transaction of its domain is now this one.
    pub fn advance(&mut self, domain: u32, server: u32, sequence: u64) {
        self.0.insert(domain, (server, sequence));
    }

    /// The last number of a domain.
    #[must_use]
    pub fn sequence(&self, domain: u32) -> Option<u64> {
        self.0.get(&domain).map(|(_, sequence)| *sequence)
    }

    /// Whether no domain is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (domain, (server, sequence))) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}

impl FromStr for Domains {
    type Err = NotGtids;
    fn from_str(text: &str) -> Result<Self, NotGtids> {
        let wrong = || NotGtids(text.to_owned());
        let mut domains = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut numbers = part.split('-');
            let mut next = || numbers.next().ok_or_else(wrong);
            let domain = next()?.parse().map_err(|_| wrong())?;
            let server = next()?.parse().map_err(|_| wrong())?;
            let sequence = next()?.parse().map_err(|_| wrong())?;
            domains.advance(domain, server, sequence);
        }
        Ok(domains)
    }
}

/// What has been seen, in whichever way the server counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidState {
    /// MySQL with GTIDs.
    Set(GtidSet),
    /// MariaDB.
    Domains(Domains),
    /// MySQL without: only file and position count.
    Off,
}

impl GtidState {
    /// Adds a transaction.
    pub fn insert(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Self::Set(set), Gtid::MySql { tsid, number }) => set.insert(tsid, *number),
            (Self::Domains(domains), Gtid::MariaDb { domain, server, sequence }) => {
                domains.advance(*domain, *server, *sequence);
            }
            (Self::Set(_) | Self::Domains(_) | Self::Off, _) => {}
        }
    }
}

impl fmt::Display for GtidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(set) => set.fmt(f),
            Self::Domains(domains) => domains.fmt(f),
            Self::Off => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "74e06a68-e588-11f1-b47c-02fc00000001";

    fn set(text: &str) -> GtidSet {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_what_the_server_prints() {
        let text = format!("{A}:1-5:7,{A}:tag:1-3");
        assert_eq!(set(&text).to_string(), text);
        assert_eq!(set(&format!("{A}:1-5:7:tag:1-3,\n{A}:6")).to_string(), format!("{A}:1-7,{A}:tag:1-3"));
        assert!(format!("{A}:0").parse::<GtidSet>().is_err());
        assert!("nonsense:1".parse::<GtidSet>().is_err());
        assert_eq!(set("").to_string(), "");
    }

    #[test]
    fn sets_grow_and_compare() {
        let mut grown = set(&format!("{A}:1-3:9"));
        let tsid = grown.0.keys().next().unwrap().clone();
        for number in [4, 10, 7, 5, 6, 8, 1] {
            grown.insert(&tsid, number);
        }
        assert_eq!(grown.to_string(), format!("{A}:1-10"));
        assert!(grown.contains(&tsid, 10) && !grown.contains(&tsid, 11));
        assert_eq!(grown.without(&set(&format!("{A}:2-3:5:9-20"))).to_string(), format!("{A}:1:4:6-8"));
        assert!(set(&format!("{A}:3")).is_in(&grown) && !grown.is_in(&set("")));
        assert!(grown.has_of(A) && !grown.has_of("84e06a68-e588-11f1-b47c-02fc00000001"));
    }

    #[test]
    fn domains_are_what_the_server_prints() {
        let domains: Domains = "0-13318-42,7-1-5".parse().unwrap();
        assert_eq!(domains.to_string(), "0-13318-42,7-1-5");
        assert_eq!(domains.sequence(7), Some(5));
        assert!("0-1".parse::<Domains>().is_err());
    }
}
