//! The consumer: a member of a group, or a reader on its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body;
use super::index::Slot;
use super::read::{self, Run};
use super::shared::Shared;
use super::state::State;
use crate::log::{Consumer, Event, GroupMetadata, LogError, Message, Offset, Result, StartAt, TopicPartition};

/// An answer holds about so many bytes of records.
const POLL_BYTES: i64 = 4 * 1024 * 1024;

/// A partition gives so many bytes before it is the next one's turn. What it gives beyond that, as
/// records are not cut in two, it gives less in its next turns.
const TURN_BYTES: i64 = 256 * 1024;

/// A consumer of the embedded log.
pub struct EmbeddedConsumer {
    shared: Arc<Shared>,
    partitions: Vec<Assigned>,
    places: HashMap<TopicPartition, usize>,
    member: Option<GroupMetadata>,
    /// Whether the partitions were handed out: at once, or by the first poll of a group's member.
    announced: bool,
    /// Counts the partitions' turns.
    turn: u64,
}

/// A partition that is read.
struct Assigned {
    at: TopicPartition,
    topic: u32,
    next: u64,
    /// The turn in which it gave something last.
    served: u64,
    /// The bytes that its last turn left to it, or below 0, those that it gave beyond its turns.
    credit: i64,
}

/// What one partition gives to an answer.
struct Share {
    place: usize,
    records: Vec<(u64, Slot)>,
    runs: Vec<Run>,
    served: u64,
    credit: i64,
}

impl EmbeddedConsumer {
    /// A new member of `group`, which takes the group over.
    pub fn subscribe(shared: Arc<Shared>, group: &str, topics: &[&str], start: StartAt) -> Result<Self> {
        // A transaction of the older member is over, or will see that the group was taken over.
        let journal = shared.journal()?;
        let mut state = shared.state();
        let mut from = Vec::new();
        for name in topics {
            let unknown = || LogError::UnknownTopic { topic: (*name).to_owned() };
            let id = state.topic_id(name).ok_or_else(unknown)?;
            let topic = state.topic(id).ok_or_else(unknown)?;
            for (number, partition) in (0..).zip(&topic.partitions) {
                let next = match (state.position(group, id, number), start) {
                    (Some(position), _) => position.offset.0,
                    (None, StartAt::Earliest) => partition.start(),
                    (None, StartAt::Latest) => partition.end(),
                };
                from.push((TopicPartition::new(Arc::clone(&topic.spec.name), number), id, next));
            }
        }
        let generation = state.join(group);
        drop(state);
        drop(journal);
        shared.notify();
        Ok(Self::new(shared, from, Some(GroupMetadata { group: group.to_owned(), generation })))
    }

    /// A reader of the given partitions.
    pub fn reader(shared: Arc<Shared>, from: &[(TopicPartition, Offset)]) -> Result<Self> {
        let state = shared.state();
        let found = from.iter().map(|(at, offset)| Ok((at.clone(), state.find(at)?.0, offset.0)));
        let found = found.collect::<Result<Vec<_>>>()?;
        drop(state);
        Ok(Self::new(shared, found, None))
    }

    fn new(shared: Arc<Shared>, from: Vec<(TopicPartition, u32, u64)>, member: Option<GroupMetadata>) -> Self {
        let mut consumer = Self {
            shared,
            partitions: Vec::with_capacity(from.len()),
            places: HashMap::with_capacity(from.len()),
            announced: member.is_none(),
            member,
            turn: 0,
        };
        for (at, topic, next) in from {
            if !consumer.places.contains_key(&at) {
                consumer.places.insert(at.clone(), consumer.partitions.len());
                consumer.partitions.push(Assigned { at, topic, next, served: 0, credit: 0 });
            }
        }
        consumer
    }

    /// Refuses the poll of a member that was replaced.
    fn check_member(&self, state: &State) -> Result<()> {
        match &self.member {
            Some(member) if state.generation(&member.group) != member.generation => {
                Err(LogError::MemberReplaced { group: member.group.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Chooses the records of the next answer and opens their files.
    fn choose(&self, state: &mut State) -> Result<Vec<Share>> {
        let mut ready = Vec::new();
        for (place, assigned) in self.partitions.iter().enumerate() {
            let partition = state.still(assigned.topic, &assigned.at)?;
            let (start, end) = (partition.start(), partition.end());
            if !(start..=end).contains(&assigned.next) {
                return Err(LogError::OffsetOutOfRange {
                    at: assigned.at.clone(),
                    offset: Offset(assigned.next),
                    start: Offset(start),
                    end: Offset(end),
                });
            }
            if assigned.next < end {
                let Assigned { next, served, credit, .. } = *assigned;
                let share = Share { place, records: Vec::new(), runs: Vec::new(), served, credit };
                ready.push((share, partition.records(next).peekable()));
            }
        }
        ready.sort_by_key(|(share, _)| share.served);
        let mut ready = VecDeque::from(ready);
        let (mut shares, mut left, mut turn) = (Vec::new(), POLL_BYTES, self.turn);
        while left > 0
            && let Some((mut share, mut records)) = ready.pop_front()
        {
            turn += 1;
            share.credit += TURN_BYTES;
            while share.credit > 0
                && left > 0
                && let Some((offset, slot)) = records.next()
            {
                share.credit -= i64::from(slot.length);
                left -= i64::from(slot.length);
                share.served = turn;
                share.records.push((offset, slot));
            }
            if records.peek().is_none() {
                // Who has nothing to give does not save his turns up.
                share.credit = share.credit.min(0);
                shares.push(share);
            } else {
                ready.push_back((share, records));
            }
        }
        shares.extend(ready.into_iter().map(|(share, _)| share));
        for share in &mut shares {
            share.runs = read::runs(share.records.iter().map(|(_, slot)| *slot), &mut state.segments)?;
        }
        Ok(shares)
    }

    /// Reads the records that were chosen, and goes on behind them.
    fn read(&mut self, shares: &[Share]) -> Result<Vec<Message>> {
        let mut messages = Vec::with_capacity(shares.iter().map(|share| share.records.len()).sum());
        for share in shares {
            let at = &self.partitions[share.place].at;
            let mut records = share.records.iter();
            for run in &share.runs {
                let bytes = run.read(&self.shared.folder)?;
                for (offset, slot) in records.by_ref().take(run.count()) {
                    let record = body::decode(&run.body(&bytes, slot));
                    let record = record.ok_or_else(|| read::damaged(&self.shared.folder, slot))?;
                    messages.push(Message { source: at.clone(), offset: Offset(*offset), record });
                }
            }
        }
        for share in shares {
            let assigned = &mut self.partitions[share.place];
            assigned.served = share.served;
            assigned.credit = share.credit;
            self.turn = self.turn.max(share.served);
            if let Some((last, _)) = share.records.last() {
                assigned.next = last + 1;
            }
        }
        Ok(messages)
    }
}

impl Consumer for EmbeddedConsumer {
    fn poll(&mut self, timeout: Duration) -> Result<Event> {
        // A time so far away that it cannot be said is for ever.
        let deadline = Instant::now().checked_add(timeout);
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        loop {
            self.check_member(&state)?;
            if !self.announced {
                self.announced = true;
                let partitions = self.partitions.iter();
                let partitions = partitions.map(|assigned| (assigned.at.clone(), Offset(assigned.next)));
                return Ok(Event::Assigned(partitions.collect()));
            }
            let chosen = self.choose(&mut state)?;
            if chosen.iter().any(|share| !share.records.is_empty()) {
                drop(state);
                return Ok(Event::Records(self.read(&chosen)?));
            }
            let time_left;
            (state, time_left) = shared.wait(state, deadline);
            if !time_left {
                return Ok(Event::Idle);
            }
        }
    }

    fn next_offset(&self, at: &TopicPartition) -> Option<Offset> {
        let place = self.places.get(at).filter(|_| self.announced)?;
        Some(Offset(self.partitions[*place].next))
    }

    fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        let place = self.places.get(at).filter(|_| self.announced);
        let place = place.ok_or_else(|| LogError::NotAssigned { at: at.clone() })?;
        self.partitions[*place].next = offset.0;
        Ok(())
    }

    fn group_metadata(&self) -> Option<GroupMetadata> {
        self.member.clone()
    }
}
