//! Where a source begins: at its stored position, at a first one, or, when the stored one is lost and the mode allows it, at a new one
//! with all tables to be read anew.
//!
//! A lost position is replaced by the first offset that the task yields, in one transaction of the topic log with nothing else in it.
//! Until that is durable the old one is stored, so that a crash in between finds the loss again: the slot that was made for the new
//! position is then ahead of the old one.

use rowstream_api::{
    ConnectorError, StartReason, TaskContext,
    snapshot::{LostPosition, OnDemand},
};
use tokio_postgres::Client;

use crate::{
    catalog::CapturedTable,
    error::from_postgres,
    offset::{Lsn, SlotState, StoredOffset, SystemState, check_slot, is_lost},
    replication::RawConnection,
    setup,
    snapshot::Progress,
    source_config::{SnapshotMode, SourcePlan},
    tables::name_of,
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
    pub(super) control: &'a mut RawConnection,
    pub(super) client: &'a Client,
    pub(super) system: &'a SystemState,
    pub(super) slot: Option<SlotState>,
    pub(super) captured: Vec<CapturedTable>,
    /// Those and the table of signals.
    pub(super) published: Vec<CapturedTable>,
}

/// Where it begins.
pub(super) struct Begun {
    pub(super) offset: StoredOffset,
    /// The offset must be stored before anything else happens.
    pub(super) announce: bool,
    /// Tables to publish once it is stored.
    pub(super) publish: Option<Vec<CapturedTable>>,
}

/// Whether all tables shall be read anew because of this error.
pub(super) fn recovers(plan: &SourcePlan, error: &ConnectorError) -> bool {
    plan.snapshot.mode == SnapshotMode::WhenNeeded && is_lost(error)
}

/// Decides where to begin, and makes what must exist upstream for it.
///
/// # Errors
/// The stored position can't be resumed; the server's.
pub(super) async fn begin(
    plan: &SourcePlan,
    from: From<'_>,
    upstream: Upstream<'_>,
    cx: &TaskContext,
) -> Result<Begun, ConnectorError> {
    match from {
        From::Stored(None) => first(plan, upstream, cx).await,
        From::Stored(Some(stored)) => {
            check_slot(&stored, upstream.slot.as_ref(), upstream.system)?;
            resume(plan, stored, upstream, cx).await
        }
        From::Lost(stored, error) => anew(plan, (stored, error), upstream, cx).await,
    }
}

async fn first(plan: &SourcePlan, upstream: Upstream<'_>, cx: &TaskContext) -> Result<Begun, ConnectorError> {
    let Upstream { control, client, system, slot, captured, published } = upstream;
    setup::ensure_publication(client, plan, &published).await?;
    let lsn = match slot {
        Some(slot) => setup::usable_slot(plan, &slot)?,
        None => setup::create_slot(control, client, plan, &cx.gauges).await?,
    };
    let snapshot = match plan.snapshot.mode {
        SnapshotMode::Never => None,
        SnapshotMode::Initial
        | SnapshotMode::InitialOnly
        | SnapshotMode::WhenNeeded
        | SnapshotMode::Always => Some(Progress::of(captured.iter().map(name_of).collect())),
    };
    let offset = StoredOffset {
        lsn,
        at_ms: None,
        slot: plan.slot.clone(),
        system_id: system.id.clone(),
        timeline: system.timeline,
        partial: None,
        newest_xid: None,
        has_joined: false,
        tables: Some(plan.tables.clone()),
        snapshot,
        on_demand: OnDemand::default(),
        signals: Vec::new(),
        lost: None,
    };
    Ok(Begun { offset, announce: true, publish: None })
}

async fn anew(
    plan: &SourcePlan,
    (stored, error): (StoredOffset, &ConnectorError),
    mut upstream: Upstream<'_>,
    cx: &TaskContext,
) -> Result<Begun, ConnectorError> {
    if let Some(slot) = upstream.slot.take_if(|slot| slot.is_invalid()) {
        setup::check_owner(plan, &slot)?;
        upstream
            .client
            .execute("SELECT pg_drop_replication_slot($1)", &[&plan.slot])
            .await
            .map_err(|e| from_postgres(e).while_attempting(&format!("drop the lost slot `{}`", plan.slot)))?;
    }
    let since = format!("{} (slot `{}`)", Lsn(stored.lsn), stored.slot);
    let lost = LostPosition::found(error, since, stored.at_ms);
    tracing::error!(
        code = lost.code,
        reason = lost.reason,
        since = lost.since,
        since_ms = lost.since_ms,
        tables = upstream.captured.len(),
        "the stored position is lost: all tables are read anew, as snapshot.mode says; rows that were deleted since are not told"
    );
    let begun = first(plan, upstream, cx).await?;
    let StoredOffset { on_demand, signals, .. } = stored;
    let offset = StoredOffset { on_demand, signals, lost: Some(lost), ..begun.offset };
    Ok(Begun { offset, ..begun })
}

/// Goes on. Takes tables in that an earlier configuration did not choose, or that the publication does not carry: these are published
/// once it is stored that the snapshot must read them, all others at once.
async fn resume(
    plan: &SourcePlan,
    stored: StoredOffset,
    upstream: Upstream<'_>,
    cx: &TaskContext,
) -> Result<Begun, ConnectorError> {
    let Upstream { client, system, captured, published, .. } = upstream;
    let mut offset = StoredOffset { timeline: system.timeline, ..stored };
    let unpublished = setup::unpublished(client, plan, &published).await?;
    let known = offset.tables.replace(plan.tables.clone());
    let is_new = |table: &&CapturedTable| {
        let (schema, name) = (table.name.schema.bare(), table.name.table.bare());
        unpublished.contains(&table.oid) || known.as_ref().is_some_and(|known| !known.matches(schema, name))
    };
    let joins = plan.snapshot.mode != SnapshotMode::Never
        && offset.take_in(captured.iter().filter(is_new).map(name_of));
    offset.has_joined |= joins;
    let again = plan.snapshot.mode == SnapshotMode::Always && cx.start == StartReason::Connector && {
        let all = captured.iter().map(name_of).collect();
        offset.on_demand.ask_at_start(all, offset.snapshot.as_ref())
    };
    if !joins {
        setup::ensure_publication(client, plan, &published).await?;
    }
    Ok(Begun { offset, announce: joins || again, publish: joins.then_some(published) })
}
