//! What the journal says, in memory: topics, the index of their records, groups' positions, and who
//! may write. Rebuilt from the segments when the log is opened, and changed by the same code then
//! and when a batch was written: [`State::apply`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::format::{Block, Change};
use super::index::Partition;
use super::segments::Segments;
use crate::log::{LogError, Position, Result, TopicPartition, TopicSpec};

/// All state.
#[derive(Debug)]
pub struct State {
    topics: BTreeMap<u32, Topic>,
    by_name: BTreeMap<Arc<str>, u32>,
    next_topic: u32,
    groups: BTreeMap<String, Group>,
    /// The partitions whose trim no batch has said yet.
    untold_trims: BTreeSet<(u32, u32)>,
    /// The newest producer of each transactional id, while it lives: set once it is fenced.
    producers: HashMap<String, Arc<AtomicBool>>,
    /// The files.
    pub segments: Segments,
}

/// A topic.
#[derive(Debug)]
pub struct Topic {
    /// Its definition.
    pub spec: TopicSpec,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// A consumer group.
#[derive(Debug, Default)]
struct Group {
    /// Counts the group's members since the log was opened; the last one is the live one.
    generation: u64,
    positions: BTreeMap<(u32, u32), Position>,
}

/// A place where a batch lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The segment's number.
    pub segment: u32,
    /// The batch's first byte.
    pub at: u64,
}

impl State {
    /// An empty log's state.
    pub fn new(folder: &Path) -> Self {
        Self {
            topics: BTreeMap::new(),
            by_name: BTreeMap::new(),
            next_topic: 1,
            groups: BTreeMap::new(),
            untold_trims: BTreeSet::new(),
            producers: HashMap::new(),
            segments: Segments::new(folder),
        }
    }

    /// The number that the next topic gets.
    pub fn next_topic(&self) -> u32 {
        self.next_topic
    }

    /// The number of the topic `name`.
    pub fn topic_id(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The topic with the number `id`.
    pub fn topic(&self, id: u32) -> Option<&Topic> {
        self.topics.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = (u32, &Topic)> {
        self.by_name.values().filter_map(|id| Some((*id, self.topics.get(id)?)))
    }

    /// The partition `partition` of the topic with the number `topic`.
    pub fn partition(&self, topic: u32, partition: u32) -> Option<&Partition> {
        self.topics.get(&topic)?.partitions.get(partition as usize)
    }

    /// The topic number and the partition that `at` names.
    pub fn find(&self, at: &TopicPartition) -> Result<(u32, &Partition)> {
        let unknown_topic = || LogError::UnknownTopic { topic: at.topic.to_string() };
        let id = self.topic_id(&at.topic).ok_or_else(unknown_topic)?;
        let partition = self.partition(id, at.partition);
        Ok((id, partition.ok_or_else(|| LogError::UnknownPartition { at: at.clone() })?))
    }

    /// The partition that `at` named when its topic had the number `topic`.
    pub fn still(&self, topic: u32, at: &TopicPartition) -> Result<&Partition> {
        self.partition(topic, at.partition).ok_or_else(|| LogError::UnknownTopic { topic: at.topic.to_string() })
    }

    /// The position of `group`.
    pub fn position(&self, group: &str, topic: u32, partition: u32) -> Option<&Position> {
        self.groups.get(group)?.positions.get(&(topic, partition))
    }

    /// All positions: group, topic, partition, position.
    pub fn positions(&self) -> impl Iterator<Item = (&str, u32, u32, &Position)> {
        self.groups.iter().flat_map(|(name, group)| {
            group.positions.iter().map(|((topic, partition), position)| (name.as_str(), *topic, *partition, position))
        })
    }

    /// The generation of `group`'s live member; 0 where it never had one.
    pub fn generation(&self, group: &str) -> u64 {
        self.groups.get(group).map_or(0, |group| group.generation)
    }

    /// Makes a new member the live one of `group` and returns its generation.
    pub fn join(&mut self, group: &str) -> u64 {
        let group = self.groups.entry(group.to_owned()).or_default();
        group.generation += 1;
        group.generation
    }

    /// Makes a new producer the one of `id`: fences the older one, and returns what will say that
    /// this one is fenced.
    pub fn open_producer(&mut self, id: &str) -> Arc<AtomicBool> {
        let fenced = Arc::new(AtomicBool::new(false));
        if let Some(older) = self.producers.insert(id.to_owned(), Arc::clone(&fenced)) {
            older.store(true, Ordering::SeqCst);
        }
        fenced
    }

    /// Forgets a producer that is gone, unless a newer one has its id.
    pub fn close_producer(&mut self, id: &str, fenced: &Arc<AtomicBool>) {
        if self.producers.get(id).is_some_and(|newest| Arc::ptr_eq(newest, fenced)) {
            self.producers.remove(id);
        }
    }

    /// Trims a partition in memory; the next batch will say it.
    pub fn trim(&mut self, topic: u32, partition: u32, start: u64) {
        if let Some(at) = self.topics.get_mut(&topic).and_then(|topic| topic.partitions.get_mut(partition as usize))
            && at.trim(start, &mut self.segments)
        {
            self.untold_trims.insert((topic, partition));
        }
    }

    /// Whether there are trims that no batch has said.
    pub fn has_untold_trims(&self) -> bool {
        !self.untold_trims.is_empty()
    }

    /// The trims that no batch has said, as changes.
    pub fn untold_trims(&self) -> impl Iterator<Item = Change> {
        self.untold_trims.iter().filter_map(|(topic, partition)| {
            let start = self.partition(*topic, *partition)?.start();
            Some(Change::Trim { topic: *topic, partition: *partition, start })
        })
    }

    /// Notes that a batch or a snapshot says that a partition starts at `start`.
    pub fn told_trim(&mut self, topic: u32, partition: u32, start: u64) {
        if self.partition(topic, partition).is_none_or(|partition| partition.start() <= start) {
            self.untold_trims.remove(&(topic, partition));
        }
    }

    /// Takes a change that a batch at `place` says.
    pub fn apply(&mut self, change: Change, place: Place) -> Result<(), String> {
        match change {
            Change::Topic { id, spec } => {
                if self.topics.contains_key(&id) || self.by_name.contains_key(&spec.name) {
                    return Err(format!("topic {:?} is created twice", spec.name));
                }
                self.insert_topic(id, spec);
            }
            Change::TopicDeleted { id } => self.delete_topic(id),
            Change::Trim { topic, partition, start } => {
                let (partition_, segments) = self.partition_mut(topic, partition)?;
                partition_.trim(start, segments);
                self.told_trim(topic, partition, start);
            }
            Change::Position { group, topic, partition, position } => {
                self.partition_mut(topic, partition)?;
                self.groups.entry(group).or_default().positions.insert((topic, partition), position);
            }
            Change::Records(block) => {
                let (partition, segments) = self.partition_mut(block.topic, block.partition)?;
                partition.append(&block, place.segment, place.at + block.bodies_at, segments)?;
            }
            Change::Range { .. } | Change::NextTopic { .. } => {
                return Err("only a snapshot may say this".to_owned());
            }
        }
        Ok(())
    }

    /// Takes what the snapshot at `place` says in the place of all small state and of all records of
    /// compacted topics. The records of ordinary topics stay.
    pub fn restore(&mut self, changes: Vec<Change>, place: Place) -> Result<(), String> {
        let named = |change: &Change| if let Change::Topic { id, .. } = change { Some(*id) } else { None };
        let listed: BTreeSet<u32> = changes.iter().filter_map(named).collect();
        let gone: Vec<u32> = self.topics.keys().copied().filter(|id| !listed.contains(id)).collect();
        for id in gone {
            self.delete_topic(id);
        }
        self.groups.clear();
        self.untold_trims.clear();
        for change in changes {
            match change {
                Change::Topic { id, spec } => match self.topics.get(&id) {
                    Some(topic) if topic.spec == spec => {}
                    Some(_) => return Err(format!("topic {:?} has changed its definition", spec.name)),
                    None => self.insert_topic(id, spec),
                },
                Change::Range { topic, partition, start, end } => {
                    let (partition, segments) = self.partition_mut(topic, partition)?;
                    partition.restore_range(start, end, segments)?;
                }
                Change::NextTopic { id } => self.next_topic = id,
                Change::Records(block) => {
                    let (partition, _) = self.partition_mut(block.topic, block.partition)?;
                    partition.restore_live(&block, place.segment, place.at + block.bodies_at)?;
                }
                other => self.apply(other, place)?,
            }
        }
        Ok(())
    }

    /// Notes that the snapshot of segment `segment` was written: the live records of compacted
    /// topics lie in it now, as `blocks` says.
    pub fn relocate(&mut self, blocks: &[Block], segment: u32) {
        for block in blocks {
            if let Ok((partition, _)) = self.partition_mut(block.topic, block.partition) {
                partition.relocate(block, segment, block.bodies_at);
            }
        }
        self.topics.values_mut().flat_map(|topic| &mut topic.partitions).for_each(Partition::drop_tombstones);
    }

    fn insert_topic(&mut self, id: u32, spec: TopicSpec) {
        let partitions = (0..spec.partitions).map(|_| Partition::new(spec.cleanup)).collect();
        self.next_topic = self.next_topic.max(id + 1);
        self.by_name.insert(Arc::clone(&spec.name), id);
        self.topics.insert(id, Topic { spec, partitions });
    }

    fn delete_topic(&mut self, id: u32) {
        if let Some(mut topic) = self.topics.remove(&id) {
            self.by_name.remove(&topic.spec.name);
            topic.partitions.iter_mut().for_each(|partition| partition.clear(&mut self.segments));
        }
        self.groups.values_mut().for_each(|group| group.positions.retain(|(topic, _), _| *topic != id));
        self.untold_trims.retain(|(topic, _)| *topic != id);
    }

    fn partition_mut(&mut self, topic: u32, partition: u32) -> Result<(&mut Partition, &mut Segments), String> {
        let found = self.topics.get_mut(&topic).and_then(|topic| topic.partitions.get_mut(partition as usize));
        let found = found.ok_or_else(|| format!("there is no partition {partition} of topic number {topic}"))?;
        Ok((found, &mut self.segments))
    }
}
