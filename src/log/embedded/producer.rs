//! The transactional producer: buffers a transaction in memory and writes it as one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::body;
use super::format::{Block, Change, Entry, Key};
use super::shared::{Quota, Shared};
use super::state::State;
use crate::log::{
    Cleanup, GroupMetadata, LogError, MAX_RECORD_BYTES, Position, Producer, Record, Result, TopicPartition,
};

/// The most bytes of a position's metadata.
const MAX_METADATA_BYTES: usize = 4096;

/// A producer of the embedded log.
pub struct EmbeddedProducer {
    shared: Arc<Shared>,
    id: String,
    /// Set by the next producer with the same id.
    fenced: Arc<AtomicBool>,
    open: Option<Transaction>,
}

/// An open transaction.
#[derive(Default)]
struct Transaction {
    outputs: Vec<Output>,
    /// The place in `outputs` that the last record went to: the next one often goes there too.
    last: usize,
    /// What the positions were added with; each must be its group's live member at commit.
    groups: Vec<GroupMetadata>,
    positions: Vec<(String, u32, TopicPartition, Position)>,
}

/// The records for one partition.
struct Output {
    to: TopicPartition,
    cleanup: Cleanup,
    block: Block,
}

impl EmbeddedProducer {
    /// A new producer with the given id.
    pub fn open(shared: Arc<Shared>, id: &str) -> Result<Self> {
        // A commit of the older producer is over, or will see that it is fenced.
        let journal = shared.journal()?;
        let fenced = shared.state().open_producer(id);
        drop(journal);
        Ok(Self { shared, id: id.to_owned(), fenced, open: None })
    }

    /// Refuses the call of a fenced producer, and throws its transaction away.
    fn check(&mut self) -> Result<()> {
        if self.fenced.load(Ordering::SeqCst) {
            self.open = None;
            return Err(LogError::Fenced { transactional_id: self.id.clone() });
        }
        Ok(())
    }

    /// The open transaction.
    fn transaction(&mut self, call: &'static str) -> Result<&mut Transaction> {
        self.check()?;
        self.open.as_mut().ok_or(LogError::TransactionState { call, state: "no transaction is open" })
    }
}

impl Transaction {
    /// Where records for `to` are collected.
    fn output(&mut self, to: &TopicPartition, shared: &Shared) -> Result<&mut Output> {
        if self.outputs.get(self.last).is_none_or(|output| output.to != *to) {
            self.last = if let Some(place) = self.outputs.iter().position(|output| output.to == *to) {
                place
            } else {
                let state = shared.state();
                let (topic, _) = state.find(to)?;
                let cleanup = state.topic(topic).map_or(Cleanup::Delete, |topic| topic.spec.cleanup);
                let block = Block { topic, partition: to.partition, ..Block::default() };
                self.outputs.push(Output { to: to.clone(), cleanup, block });
                self.outputs.len() - 1
            };
        }
        Ok(&mut self.outputs[self.last])
    }

    /// What is to be written. Gives the records their offsets.
    fn into_changes(self, state: &State) -> Result<Vec<Change>> {
        for metadata in &self.groups {
            check_member(state, metadata)?;
        }
        let mut changes = Vec::with_capacity(self.outputs.len() + self.positions.len());
        for Output { to, mut block, .. } in self.outputs {
            block.base = state.still(block.topic, &to)?.end();
            changes.push(Change::Records(block));
        }
        for (group, topic, at, position) in self.positions {
            state.still(topic, &at)?;
            changes.push(Change::Position { group, topic, partition: at.partition, position });
        }
        Ok(changes)
    }
}

/// Refuses what an older member of a group adds.
fn check_member(state: &State, metadata: &GroupMetadata) -> Result<()> {
    if state.generation(&metadata.group) == metadata.generation {
        Ok(())
    } else {
        Err(LogError::MemberReplaced { group: metadata.group.clone() })
    }
}

impl Producer for EmbeddedProducer {
    fn begin(&mut self) -> Result<()> {
        self.check()?;
        if self.open.is_some() {
            return Err(LogError::TransactionState { call: "begin", state: "a transaction is open" });
        }
        self.open = Some(Transaction::default());
        Ok(())
    }

    fn send(&mut self, to: &TopicPartition, record: Record) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let output = self.transaction("send")?.output(to, &shared)?;
        let size = record.size();
        if size > MAX_RECORD_BYTES {
            return Err(LogError::RecordTooLarge { at: to.clone(), size, limit: MAX_RECORD_BYTES });
        }
        let block = &mut output.block;
        if output.cleanup == Cleanup::Compact {
            let Some(key) = &record.key else {
                return Err(LogError::KeyMissing { topic: to.topic.to_string() });
            };
            block.keys.push(Key { key: Box::from(&key[..]), tombstone: record.value.is_none() });
        }
        let delta = u32::try_from(block.entries.len()).expect("2^32 records do not fit into memory");
        let length = body::encode(&record, &mut block.bodies);
        block.entries.push(Entry { delta, length });
        Ok(())
    }

    fn send_positions(&mut self, group: &GroupMetadata, positions: &[(TopicPartition, Position)]) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let transaction = self.transaction("send_positions")?;
        let state = shared.state();
        check_member(&state, group)?;
        let mut found = Vec::with_capacity(positions.len());
        for (at, position) in positions {
            let size = position.metadata.len();
            if size > MAX_METADATA_BYTES {
                return Err(LogError::MetadataTooLarge { size });
            }
            found.push((group.group.clone(), state.find(at)?.0, at.clone(), position.clone()));
        }
        transaction.positions.append(&mut found);
        if !transaction.groups.contains(group) {
            transaction.groups.push(group.clone());
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.transaction("commit")?;
        let transaction = self.open.take().unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let mut journal = shared.journal()?;
        self.check()?;
        let quota = if transaction.outputs.iter().all(|output| output.block.entries.is_empty()) {
            Quota::Waived
        } else {
            Quota::Holds
        };
        let mut changes = transaction.into_changes(&shared.state())?;
        changes.retain(|change| !matches!(change, Change::Records(block) if block.entries.is_empty()));
        if changes.is_empty() { Ok(()) } else { shared.write(&mut journal, changes, quota) }
    }

    fn abort(&mut self) -> Result<()> {
        self.check()?;
        self.open = None;
        Ok(())
    }
}

impl Drop for EmbeddedProducer {
    fn drop(&mut self) {
        self.shared.state().close_producer(&self.id, &self.fenced);
    }
}
