//! The slot's health as gauges, asked every ten seconds over a connection of its own, so that nothing waits for it.

use std::{sync::Arc, time::Duration};

use rowstream_api::{Chain, ConnectorError, Gauges};

use crate::{
    catalog,
    connection::Connection,
    error::from_postgres,
    source_config::SourcePlan,
    stream::{changes::signed, reader::Control},
};

const INTERVAL: Duration = Duration::from_secs(10);

const SLOT: &str = "
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8,
       pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8,
       safe_wal_size::float8, wal_status
  FROM pg_replication_slots WHERE slot_name = $1";

/// Publishes the slot's state until it is dropped.
pub async fn watch(plan: SourcePlan, gauges: Gauges, control: Arc<Control>) {
    let mut connection = None;
    loop {
        if let Err(error) = look(&plan, &gauges, &mut connection).await {
            // The stream has its own connection and reports for itself; gauges can wait.
            tracing::debug!(error = %Chain(&error), "slot gauges are not available");
            connection = None;
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        gauges.set("received_lsn", signed(control.received()) as f64);
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(
    plan: &SourcePlan,
    gauges: &Gauges,
    connection: &mut Option<Connection>,
) -> Result<(), ConnectorError> {
    let client = match connection {
        Some(connection) => &connection.client,
        None => &connection.insert(catalog::connect(&plan.connection).await?).client,
    };
    plan.connection.expiry.publish(gauges);
    let Some(row) = client.query_opt(SLOT, &[&plan.slot]).await.map_err(from_postgres)? else {
        gauges.note("wal_status", Some(format!("replication slot `{}` does not exist", plan.slot)));
        return Ok(());
    };
    for (column, name) in
        [(0, "slot_retained_wal_bytes"), (1, "slot_confirmed_lag_bytes"), (2, "slot_safe_wal_bytes")]
    {
        if let Some(value) = row.get::<_, Option<f64>>(column) {
            gauges.set(name, value);
        }
    }
    let status: Option<String> = row.get(3);
    gauges.note("wal_status", status.filter(|s| s != "reserved").map(|s| format!("wal_status is `{s}`")));
    Ok(())
}
