//! Where a source begins: at its stored position, at a first one, or, when the stored one is lost and the mode allows it, at a new one
//! with all tables to be read anew.
//!
//! A lost position is replaced by the first offset that the task yields, in one transaction of the topic log. Until that is durable the
//! old one is stored, so that a crash in between finds the loss again. The server itself is not changed.

use mysql_async::Conn;
use rowstream_api::{
    ConnectorError, StartReason, TaskContext,
    snapshot::{LostPosition, OnDemand},
};

use super::flavour_name;
use crate::{
    connection::Server,
    offset::{StoredOffset, is_lost},
    setup,
    snapshot::Progress,
    source_config::{SnapshotMode, SourcePlan},
};

/// What is known when a source begins.
pub(super) enum From<'a> {
    /// The stored offset; none when it never ran.
    Stored(Option<StoredOffset>),
    /// One that can't be gone on from, and why.
    Lost(StoredOffset, &'a ConnectorError),
}

/// What is there.
pub(super) struct Upstream<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) server: Server,
    pub(super) uuid: &'a str,
    pub(super) captured: Vec<(String, String)>,
}

/// Where it begins.
pub(super) struct Begun {
    pub(super) offset: StoredOffset,
    /// The offset must be stored before anything else happens.
    pub(super) announce: bool,
    /// It goes on from nothing.
    pub(super) is_first: bool,
}

/// Whether all tables shall be read anew because of this error.
pub(super) fn recovers(plan: &SourcePlan, error: &ConnectorError) -> bool {
    plan.snapshot.mode == SnapshotMode::WhenNeeded && is_lost(error)
}

/// Decides where to begin.
///
/// # Errors
/// The stored position is of the other kind of server; the server's.
pub(super) async fn begin(
    plan: &SourcePlan,
    from: From<'_>,
    upstream: Upstream<'_>,
    cx: &TaskContext,
) -> Result<Begun, ConnectorError> {
    let server = upstream.server;
    match from {
        From::Stored(None) => first(plan, upstream).await,
        From::Stored(Some(stored)) if stored.flavour != flavour_name(server.flavour) => {
            Err(setup::other_flavour(&stored.flavour, server))
        }
        From::Stored(Some(stored)) => Ok(resume(plan, stored, upstream, cx)),
        From::Lost(stored, error) => anew(plan, (stored, error), upstream).await,
    }
}

async fn first(plan: &SourcePlan, upstream: Upstream<'_>) -> Result<Begun, ConnectorError> {
    let Upstream { conn, server, uuid, captured } = upstream;
    let position = setup::first_position(conn, server).await?;
    let snapshot = match plan.snapshot.mode {
        SnapshotMode::Never => None,
        SnapshotMode::Initial
        | SnapshotMode::InitialOnly
        | SnapshotMode::WhenNeeded
        | SnapshotMode::Always => Some(Progress::of(captured)),
    };
    let mut offset = StoredOffset {
        flavour: flavour_name(server.flavour),
        server_uuid: uuid.to_owned(),
        file: String::new(),
        pos: 0,
        at_ms: None,
        gtids: None,
        partial: None,
        prepared: Vec::new(),
        tables: Some(plan.tables.clone()),
        snapshot,
        on_demand: OnDemand::default(),
        signals: Vec::new(),
        lost: None,
    };
    offset.set_position(&position);
    Ok(Begun { offset, announce: true, is_first: true })
}

async fn anew(
    plan: &SourcePlan,
    (stored, error): (StoredOffset, &ConnectorError),
    upstream: Upstream<'_>,
) -> Result<Begun, ConnectorError> {
    let at = format!("{}:{}", stored.file, stored.pos);
    let since = stored.gtids.map_or_else(|| at.clone(), |gtids| format!("{gtids} ({at})"));
    let lost = LostPosition::found(error, since, stored.at_ms);
    tracing::error!(
        code = lost.code,
        reason = lost.reason,
        since = lost.since,
        since_ms = lost.since_ms,
        tables = upstream.captured.len(),
        "the stored position is lost: all tables are read anew, as snapshot.mode says; rows that were deleted since are not told"
    );
    let begun = first(plan, upstream).await?;
    let StoredOffset { on_demand, signals, .. } = stored;
    let offset = StoredOffset { on_demand, signals, lost: Some(lost), ..begun.offset };
    Ok(Begun { offset, ..begun })
}

fn resume(plan: &SourcePlan, stored: StoredOffset, upstream: Upstream<'_>, cx: &TaskContext) -> Begun {
    let (mut offset, captured) = (stored, upstream.captured);
    if let Some(known) = offset.tables.replace(plan.tables.clone())
        && plan.snapshot.mode != SnapshotMode::Never
    {
        let is_new = |(database, name): &&(String, String)| !known.matches(database, name);
        offset.take_in(captured.iter().filter(is_new).cloned());
    }
    let again = plan.snapshot.mode == SnapshotMode::Always
        && cx.start == StartReason::Connector
        && offset.on_demand.ask_at_start(captured, offset.snapshot.as_ref());
    Begun { offset, announce: again, is_first: false }
}
