//! The binlog's head-room as gauges, asked every ten seconds over a connection of its own, so that nothing waits for it.

use std::{sync::Arc, time::Duration};

use mysql_async::{Conn, Row, prelude::Queryable};
use rowstream_api::{Chain, ConnectorError, Gauges};

use crate::{
    catalog,
    error::from_mysql,
    source_config::SourcePlan,
    stream::{position::BinlogPosition, reader::Control},
};

const INTERVAL: Duration = Duration::from_secs(10);

/// Publishes the binlog's state until it is dropped.
pub async fn watch(plan: SourcePlan, gauges: Gauges, control: Arc<Control>) {
    let mut connection = None;
    loop {
        if let Err(error) = look(&plan, &gauges, &control, &mut connection).await {
            // The stream has its own connection and reports for itself; gauges can wait.
            tracing::debug!(error = %Chain(&error), "binlog gauges are not available");
            connection = None;
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        gauges.set("binlog_received_bytes", control.received() as f64);
        plan.connection.expiry.publish(&gauges);
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(
    plan: &SourcePlan,
    gauges: &Gauges,
    control: &Control,
    connection: &mut Option<Conn>,
) -> Result<(), ConnectorError> {
    let conn = match connection {
        Some(conn) => conn,
        None => connection.insert(catalog::connect(&plan.connection).await?.0),
    };
    let Some(at) = control.position() else { return Ok(()) };
    let files: Vec<Row> = conn.query("SHOW BINARY LOGS").await.map_err(from_mysql)?;
    let files = files
        .iter()
        .filter_map(|row| Some(BinlogPosition::new(row.get::<String, _>(0)?, row.get::<u64, _>(1)?)));
    let (mut behind, mut ahead_of_purge) = (0, 0);
    for file in files {
        let here = BinlogPosition::new(Arc::clone(&file.file), 4);
        if *file.file == *at.file {
            behind += file.offset.saturating_sub(at.offset);
            ahead_of_purge += at.offset;
        } else if here < at {
            ahead_of_purge += file.offset;
        } else {
            behind += file.offset;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    for (name, bytes) in [("binlog_lag_bytes", behind), ("binlog_purge_headroom_bytes", ahead_of_purge)] {
        gauges.set(name, bytes as f64);
    }
    Ok(())
}
