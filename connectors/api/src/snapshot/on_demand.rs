//! Snapshots that are asked for while the stream goes on.
//!
//! Each table that was asked for waits for its turn, behind the initial snapshot, and is read by a run of its own: that run begins,
//! as every run does, when all that the stream delivered before is visible. So a table that is asked for in mid-stream is as exact
//! as one of a run after a restart, and nothing needs to be remembered of the stream while nobody reads.
//!
//! - A pause drops the run, as a crash would; going on is a new one, after the last key that was delivered.
//! - What is asked for is stored with the stream's position, and so are the ids of the requests that were taken: a request that is
//!   told again after a crash does nothing.
//! - Only tables that are read in chunks can be asked for: a whole table is read while the stream is held, and what the stream tells
//!   of it meanwhile is left out, which would lose changes of rows that somebody already has.
//! - What can't be read is refused, and the stream goes on: a refusal is kept for people to see.

use std::{collections::VecDeque, num::NonZeroU32};

use serde::{Deserialize, Serialize};

use super::{database::TableName, progress::Progress};

/// Only requests that are not withdrawn yet are told again, and those are at most half as many.
const TAKEN_MAX: usize = 32;
/// Refusals that are kept, the newest ones.
const REFUSED_MAX: usize = 8;
/// Tables that wait at once: they are stored with each position.
const WAITING_MAX: usize = 1000;

/// The request of a start of the connector, where each one is to read all tables.
const AT_START: &str = "start of the connector";

/// What somebody asks of a source's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Names the request: it is taken once.
    pub id: String,
    /// Milliseconds since 1970-01-01.
    pub asked_at_ms: u64,
    /// What is asked.
    #[serde(flatten)]
    pub action: SnapshotAction,
}

/// See [`SnapshotRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum SnapshotAction {
    /// Read these tables, each after the ones before.
    Start {
        /// `schema.table`, or `database.table`.
        tables: Vec<String>,
        /// Which rows of them: an SQL condition over their columns; all when there is none.
        #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
        condition: Option<String>,
    },
    /// Read nothing for now, of the initial snapshot neither.
    Pause,
    /// Go on.
    Resume,
    /// Forget what was asked for. The initial snapshot goes on.
    Cancel,
    /// Read no more rows in a second, until nothing is left to read.
    Limit {
        /// 0: as many as there are; none: as many as the configuration says.
        rows_per_second: Option<u32>,
    },
}

impl SnapshotAction {
    /// One word, for logs: a condition may hold somebody's data.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Limit { .. } => "limit",
        }
    }
}

/// A table that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The request's id.
    pub request: String,
    /// The table.
    pub table: TableName,
    /// Which rows.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// What was asked for and can't be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The request's id.
    pub request: String,
    /// What it was about.
    pub tables: Vec<String>,
    /// Why, and what to do.
    pub reason: String,
}

/// What a signal comes to, once its tables are known.
pub enum Order {
    /// Read these tables, each with a condition or whole; those can't be read, for a reason each.
    Read {
        /// Tables and conditions.
        tables: Vec<(TableName, Option<String>)>,
        /// What it named else, and why that is not read.
        refused: Vec<(String, String)>,
    },
    /// Forget the tables that this is true of, if they were asked for.
    Stop(Box<dyn Fn(&TableName) -> bool + Send>),
    /// Read nothing for now.
    Pause,
    /// Go on.
    Resume,
}

impl Order {
    /// What is done, for people.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Read { tables, .. } if tables.is_empty() => "nothing is read",
            Self::Read { .. } => "tables are read",
            Self::Stop(_) => "tables are read no more",
            Self::Pause => "snapshots are paused",
            Self::Resume => "snapshots go on",
        }
    }

    /// What is not read of that which was named, and why.
    #[must_use]
    pub fn refused(&self) -> &[(String, String)] {
        if let Self::Read { refused, .. } = self { refused } else { &[] }
    }
}

/// What was asked for, as it is stored beside the stream's position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnDemand {
    /// Tables that wait for their turn. The one that is being read is [`Progress::asked`].
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    waiting: VecDeque<Asked>,
    /// Nothing is read for now.
    #[serde(skip_serializing_if = "is_false")]
    paused: bool,
    /// See [`SnapshotAction::Limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_per_second: Option<u32>,
    /// Ids of the requests that were taken last.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    taken: VecDeque<String>,
    /// What was refused last.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    refused: VecDeque<Refusal>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// `schema.table`
#[must_use]
pub fn dotted((schema, table): &TableName) -> String {
    format!("{schema}.{table}")
}

impl OnDemand {
    /// There is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing may be read for now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Tables that wait for their turn, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Asked> {
        self.waiting.iter()
    }

    /// What was refused, the newest last.
    pub fn refused(&self) -> impl Iterator<Item = &Refusal> {
        self.refused.iter()
    }

    /// Whether this request was taken before.
    #[must_use]
    pub fn has_taken(&self, request: &str) -> bool {
        self.taken.iter().any(|id| id == request)
    }

    /// Takes a request to read tables, all of them or none.
    pub fn ask(&mut self, request: &str, tables: Vec<TableName>, condition: Option<&str>) {
        self.take(request);
        if self.waiting.len() + tables.len() > WAITING_MAX {
            let reason = format!("more than {WAITING_MAX} tables would wait; ask again when some are done");
            return self.refuse(request, tables.iter().map(dotted).collect(), reason);
        }
        let asked =
            |table| Asked { request: request.to_owned(), table, condition: condition.map(str::to_owned) };
        self.waiting.extend(tables.into_iter().map(asked));
    }

    /// As [`Self::ask`], of tables as they were written, each with its name or with what is wrong with it: all of them are taken or, when
    /// there is a problem with one, none. Answers why they are refused.
    pub fn ask_checked(
        &mut self,
        request: &str,
        tables: Vec<(String, Result<TableName, String>)>,
        condition: Option<&str>,
    ) -> Option<&str> {
        let problem = |(written, named): &(String, Result<TableName, String>)| {
            named.as_ref().err().map(|problem| format!("{written}: {problem}"))
        };
        let problems: Vec<String> = tables.iter().filter_map(problem).collect();
        if problems.is_empty() {
            let names = tables.into_iter().filter_map(|(_, named)| named.ok()).collect();
            self.ask(request, names, condition);
            return None;
        }
        self.refuse(request, tables.into_iter().map(|(written, _)| written).collect(), problems.join("; "));
        self.refused.back().map(|refusal| refusal.reason.as_str())
    }

    /// A start of the connector asks for all its tables. Where those of an earlier start are not read yet, they go on instead: what they
    /// told stays true, for the stream tells what changes. Answers whether anything is asked.
    pub fn ask_at_start<S>(&mut self, tables: Vec<TableName>, progress: Option<&Progress<S>>) -> bool {
        let current = progress.and_then(|progress| progress.asked.as_ref());
        if current.into_iter().chain(&self.waiting).any(|asked| asked.request == AT_START) {
            return false;
        }
        self.refused.retain(|refusal| refusal.request != AT_START);
        let is_due = |(schema, name): &TableName| {
            !progress.is_some_and(|progress| progress.will_be_whole((schema, name)))
        };
        let waiting = self.waiting.len();
        let asked = |table| Asked { request: AT_START.to_owned(), table, condition: None };
        self.waiting.extend(tables.into_iter().filter(is_due).map(asked));
        self.waiting.len() > waiting
    }

    /// Takes a request, and refuses it.
    pub fn refuse(&mut self, request: &str, tables: Vec<String>, reason: impl Into<String>) {
        self.take(request);
        self.note_refusal(request, tables, reason);
    }

    fn note_refusal(&mut self, request: &str, tables: Vec<String>, reason: impl Into<String>) {
        self.refused.push_back(Refusal { request: request.to_owned(), tables, reason: reason.into() });
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_front();
        }
    }

    /// Takes a request to pause. When there is nothing to read there is nothing to pause: what comes later is read.
    pub fn pause<S>(&mut self, request: &str, progress: Option<&Progress<S>>) {
        self.take(request);
        self.paused = self.has_work(progress);
    }

    /// Takes a request to read no faster. Of nothing, it is nothing, too.
    pub fn limit<S>(&mut self, request: &str, rows_per_second: Option<u32>, progress: Option<&Progress<S>>) {
        self.take(request);
        self.rows_per_second = rows_per_second.filter(|_| self.has_work(progress));
    }

    /// The bound on rows read in a second, of what was asked for and what is configured; none is no bound.
    #[must_use]
    pub fn rows_per_second(&self, configured: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(self.rows_per_second.unwrap_or(configured))
    }

    /// Takes a request to go on.
    pub fn resume(&mut self, request: &str) {
        self.take(request);
        self.paused = false;
    }

    /// Takes a request to forget what was asked for, refusals too. `true`: the run that is under way must be dropped.
    pub fn cancel<S>(&mut self, request: &str, progress: &mut Option<Progress<S>>) -> bool {
        self.take(request);
        self.waiting.clear();
        self.refused.clear();
        let dropped = progress.as_mut().filter(|progress| progress.asked.is_some());
        let is_dropped = dropped.map(Progress::finish_table).is_some();
        self.tidy(progress);
        is_dropped
    }

    /// Lets the next table have its turn, if it may: only while no run is under way.
    pub fn begin_next<S>(&mut self, progress: &mut Option<Progress<S>>) {
        let is_busy = progress.as_ref().is_some_and(|progress| !progress.todo.is_empty());
        if self.paused || is_busy {
            return;
        }
        if let Some(next) = self.waiting.pop_front() {
            let progress = progress.get_or_insert_default();
            progress.todo.push(next.table.clone());
            progress.asked = Some(next);
        }
    }

    /// Refuses the table that is being read, or was about to be. `true`: it was asked for, and its run must be dropped.
    pub fn refuse_current<S>(
        &mut self,
        progress: &mut Option<Progress<S>>,
        reason: impl Into<String>,
    ) -> bool {
        let of = progress.as_mut().and_then(|progress| Some((progress.asked.clone()?, progress)));
        let Some((asked, current)) = of else { return false };
        current.finish_table();
        self.note_refusal(&asked.request, vec![dotted(&asked.table)], reason);
        self.tidy(progress);
        true
    }

    /// Follows a signal, whose place in the stream is what names it: no request is taken. `true`: the run that is under way must be
    /// dropped.
    pub fn follow<S>(&mut self, request: &str, order: Order, progress: &mut Option<Progress<S>>) -> bool {
        match order {
            Order::Read { tables, refused } => {
                for (table, reason) in refused {
                    self.note_refusal(request, vec![table], reason);
                }
                if self.waiting.len() + tables.len() > WAITING_MAX {
                    let reason =
                        format!("more than {WAITING_MAX} tables would wait; ask again when some are done");
                    self.note_refusal(
                        request,
                        tables.iter().map(|(table, _)| dotted(table)).collect(),
                        reason,
                    );
                    return false;
                }
                let asked = |(table, condition)| Asked { request: request.to_owned(), table, condition };
                self.waiting.extend(tables.into_iter().map(asked));
                false
            }
            Order::Stop(means) => {
                self.waiting.retain(|asked| !means(&asked.table));
                let current = progress
                    .as_mut()
                    .filter(|progress| progress.asked.as_ref().is_some_and(|asked| means(&asked.table)));
                let is_dropped = current.map(Progress::finish_table).is_some();
                self.tidy(progress);
                is_dropped
            }
            Order::Pause => {
                self.paused = self.has_work(progress.as_ref());
                false
            }
            Order::Resume => {
                self.paused = false;
                false
            }
        }
    }

    /// Forgets progress that is done, and a pause and a limit of nothing.
    pub fn tidy<S>(&mut self, progress: &mut Option<Progress<S>>) {
        if progress.as_ref().is_some_and(Progress::is_done) {
            *progress = None;
        }
        if !self.has_work(progress.as_ref()) {
            (self.paused, self.rows_per_second) = (false, None);
        }
    }

    fn has_work<S>(&self, progress: Option<&Progress<S>>) -> bool {
        !self.waiting.is_empty() || progress.is_some_and(|progress| !progress.todo.is_empty())
    }

    fn take(&mut self, request: &str) {
        if self.has_taken(request) {
            return;
        }
        self.taken.push_back(request.to_owned());
        if self.taken.len() > TAKEN_MAX {
            self.taken.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
