//! Signals: taken out of the stream with the position that passes them, followed once that is yielded.
//!
//! A signal is in the offset of the batch that it came with until the offset of a later one holds what came of it. So it is followed
//! once, whatever is killed; only a `log` may be written again after a crash.

use std::{collections::BTreeSet, sync::Arc};

use rowstream_api::{
    Chain, Class, ConnectorError,
    snapshot::{
        Meaning, Order,
        on_demand::dotted,
        signal::{self, Choice},
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
        let mut orders = Vec::new();
        for signal in self.offset.signals.clone() {
            let order = match signal.meaning() {
                Ok(Meaning::Execute(choice)) => Some(self.order_to_read(&choice).await?),
                Ok(Meaning::Stop(None)) => Some(Order::Stop(Box::new(|_| true))),
                Ok(Meaning::Stop(Some(choice))) => {
                    Some(Order::Stop(Box::new(move |table| choice.means(table))))
                }
                Ok(Meaning::Pause) => Some(Order::Pause),
                Ok(Meaning::Resume) => Some(Order::Resume),
                Ok(Meaning::Log(message)) => {
                    let position = Lsn(self.offset.lsn).to_string();
                    tracing::info!(
                        signal = signal.request(),
                        message = signal::log_line(&message, &position),
                        "signal"
                    );
                    None
                }
                Ok(Meaning::Nothing) => None,
                Err(reason) => {
                    let refused = vec![("a signal".to_owned(), reason)];
                    Some(Order::Read { tables: Vec::new(), refused })
                }
            };
            orders.extend(order.map(|order| (signal.request(), order)));
        }
        self.offset.signals.clear();
        for (request, order) in orders {
            self.follow(&request, order);
        }
        self.announce = true;
        Ok(())
    }

    fn follow(&mut self, request: &str, order: Order) {
        let what = match &order {
            Order::Read { tables, refused } => {
                for (table, reason) in refused {
                    tracing::warn!(signal = request, table, reason, "what a signal asks for is refused");
                }
                if tables.is_empty() { "nothing is read" } else { "tables are read" }
            }
            Order::Stop(_) => "tables are read no more",
            Order::Pause => "snapshots are paused",
            Order::Resume => "snapshots go on",
        };
        tracing::info!(signal = request, what, "signal followed");
        if self.offset.on_demand.follow(request, order, &mut self.offset.snapshot) {
            self.snapshot = None;
        }
    }

    /// The tables that a signal names, as far as they can be read.
    async fn order_to_read(&mut self, choice: &Choice) -> Result<Order, ConnectorError> {
        let captured = self.tables.captured(&self.plan).await?;
        let (chosen, unknown) = choice.of(&captured);
        let none = "no table that is captured is meant by it";
        let mut refused: Vec<(String, String)> =
            unknown.into_iter().map(|pattern| (pattern, none.to_owned())).collect();
        let mut tables = Vec::with_capacity(chosen.len());
        for (table, condition) in chosen {
            match self.tables.asked(&table, condition.as_deref(), &self.plan).await {
                Ok(Ok(_)) => tables.push((table, condition)),
                Ok(Err(reason)) => refused.push((dotted(&table), reason)),
                Err(error) if error.class == Class::Transient => return Err(error),
                Err(error) => refused.push((dotted(&table), Chain(&error).to_string())),
            }
        }
        Ok(Order::Read { tables, refused })
    }
}
