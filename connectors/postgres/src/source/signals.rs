//! Signals: taken out of the stream with the position that passes them, followed once that is yielded.
//!
//! A signal is in the offset of the batch that it came with until the offset of a later one holds what came of it. So it is followed
//! once, whatever is killed; only a `log` may be written again after a crash.

use std::{collections::BTreeSet, sync::Arc};

use rowstream_api::{
    ConnectorError,
    snapshot::{
        Order,
        signal::{self, Choice, Step},
    },
};

use super::PostgresSourceTask;
use crate::{
    offset::Lsn,
    stream::{
        assemble::{Entry, RawBatch},
        changes::StreamChanges,
    },
    table::TablePlan,
};

impl PostgresSourceTask {
    /// Keeps the signals of a batch. The plan of their table is taken away, and so are its rows, unless it is captured.
    pub(super) fn take_signals(
        &mut self,
        raw: &mut RawBatch,
        tables: &mut [Option<Arc<TablePlan>>],
    ) -> Result<(), ConnectorError> {
        let is_signal = |table: &Option<Arc<TablePlan>>| {
            let relation = table.as_ref().map(|table| &table.relation);
            relation.is_some_and(|relation| self.plan.is_signal(&relation.namespace, &relation.name))
        };
        // More than one, when its shape changes in the batch.
        let places: Vec<bool> = tables.iter().map(is_signal).collect();
        if !places.contains(&true) {
            return Ok(());
        }
        let is_of = |entry: &&Entry| places.get(entry.relation as usize) == Some(&true);
        let changes = StreamChanges {
            entries: raw.entries.iter().filter(is_of).copied().collect(),
            arena: std::mem::take(&mut raw.arena),
            transactions: raw.transactions.clone(),
            tables: tables.to_vec(),
            unread: Vec::new(),
            gone: BTreeSet::new(),
            names: Arc::clone(&self.names),
        };
        let left_out = signal::collect(&changes, &mut self.offset.signals)?;
        if left_out > 0 {
            tracing::warn!(left_out, "too many signals came at once: the last ones are not followed");
        }
        raw.arena = changes.arena;
        let is_captured =
            self.plan.signal.as_ref().is_some_and(|(schema, name)| self.plan.tables.matches(schema, name));
        if !is_captured {
            let of_signals = tables.iter_mut().zip(places).filter(|(_, is_signal)| *is_signal);
            of_signals.for_each(|(table, _)| *table = None);
        }
        Ok(())
    }

    /// Finds out what the signals come to, and does it; the next offset says so.
    pub(super) async fn follow_signals(&mut self) -> Result<(), ConnectorError> {
        let position = Lsn(self.offset.lsn).to_string();
        let mut orders = Vec::new();
        for signal in self.offset.signals.clone() {
            let request = signal.request();
            match signal.step(&position) {
                Step::Find(choice) => orders.push((request, self.order_to_read(&choice).await?)),
                Step::Do(order) => orders.push((request, order)),
                Step::Log(message) => tracing::info!(signal = request, message, "signal"),
                Step::Nothing => {}
            }
        }
        self.offset.signals.clear();
        for (request, order) in orders {
            for (table, reason) in order.refused() {
                tracing::warn!(signal = request, table, reason, "what a signal asks for is refused");
            }
            tracing::info!(signal = request, what = order.what(), "signal followed");
            if self.offset.on_demand.follow(&request, order, &mut self.offset.snapshot) {
                self.snapshot = None;
            }
        }
        self.announce = true;
        Ok(())
    }

    /// The tables that a signal names, as far as they can be read.
    async fn order_to_read(&mut self, choice: &Choice) -> Result<Order, ConnectorError> {
        let captured = self.tables.captured(&self.plan).await?;
        let (chosen, mut found) = choice.of(&captured);
        for (table, condition) in chosen {
            let told = self.tables.asked(&table, condition.as_deref(), &self.plan).await;
            found.add((table, condition), told)?;
        }
        Ok(found.into_order())
    }
}
