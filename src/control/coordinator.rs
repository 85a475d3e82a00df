//! The coordinator of a run: sums the receipts, gives the verdict, and gives disk back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::error::Result;
use crate::log::{Consumer, Event, Log, Offset, Producer, TopicPartition};
use crate::record::run::{RunRecord, Verdict, WORKER_GROUP, key};
use crate::record::{Receipt, RowCounts};
use crate::service::{StateView, state_record};
use crate::sink;

/// Follows a run's ledger.
pub struct Coordinator<'a> {
    log: &'a dyn Log,
    run: &'a RunRecord,
    ledger: Box<dyn Consumer>,
    producer: Box<dyn Producer>,
    state: StateView,
    counts: RowCounts,
    verdict: Option<Verdict>,
    trimmed: HashMap<TopicPartition, Offset>,
}

impl<'a> Coordinator<'a> {
    /// Goes on where the sink's last checkpoint is: receipts before it may be gone from the log.
    ///
    /// # Errors
    /// The log's.
    pub fn open(log: &'a dyn Log, run: &'a RunRecord) -> Result<Self> {
        let state = StateView::new(log, &run.topics.state)?;
        let at = |p| TopicPartition::new(Arc::clone(&run.topics.ledger), p);
        let (counts, offsets) = match sink::staged_so_far(&state, run)? {
            Some(staged) => staged,
            None => {
                let starts = (0..run.definition.partitions).map(|p| Ok(log.offsets(&at(p))?.start.0));
                (RowCounts::default(), starts.collect::<Result<Vec<_>>>()?)
            }
        };
        let from: Vec<_> = (0_u32..).zip(&offsets).map(|(p, offset)| (at(p), Offset(*offset))).collect();
        Ok(Self {
            ledger: log.reader(&from)?,
            producer: log.producer(&format!("{}-coordinator", run.run))?,
            verdict: state.get(&key::verdict(&run.run))?,
            log,
            run,
            state,
            counts,
            trimmed: HashMap::new(),
        })
    }

    /// The verdict, if there is one.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Takes the receipts that came, waiting up to `timeout` for one, and gives the verdict where the dead rows are
    /// more than the run may have.
    ///
    /// # Errors
    /// The log's.
    pub fn follow(&mut self, timeout: Duration) -> Result<()> {
        if let Event::Records(messages) = self.ledger.poll(timeout)? {
            for message in messages {
                let receipt = Receipt::decode(message.record.value.as_ref())?;
                if receipt.run == self.run.run {
                    self.counts += receipt.counts;
                }
            }
        }
        if self.verdict.is_none()
            && let Some(verdict) = self.run.definition.verdict(&self.counts)
        {
            self.producer.begin()?;
            let state = TopicPartition::new(Arc::clone(&self.run.topics.state), 0);
            self.producer.send(&state, state_record(&key::verdict(&self.run.run), &verdict)?)?;
            self.producer.commit()?;
            self.verdict = Some(verdict);
        }
        Ok(())
    }

    /// Gives up the records that nobody needs any more: input behind the workers, and what the sink has staged.
    ///
    /// # Errors
    /// The log's.
    pub fn trim(&mut self) -> Result<()> {
        self.state.refresh()?;
        let mut needed = sink::least_needed(&self.state, self.run)?;
        for partition in 0..self.run.definition.partitions {
            let input = TopicPartition::new(Arc::clone(&self.run.topics.input), partition);
            if let Some(position) = self.log.position(WORKER_GROUP, &input)? {
                needed.push((input, position.offset));
            }
        }
        for (at, before) in needed {
            let trimmed = self.trimmed.entry(at.clone()).or_default();
            if before > *trimmed {
                self.log.trim(&at, before)?;
                *trimmed = before;
            }
        }
        Ok(())
    }
}
