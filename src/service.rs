//! What the services of the data path share: how they are told to stop, and what they count for people.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::log::{Consumer, Event, Log, Record, TopicPartition};
use crate::record::FormatError;

/// A signal to stop, shared by all services of a process. Once given it stays given.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks everybody to stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// A number that one service counts and others look at.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a run's services count, for the progress bar. The ledger, not this, says what happened.
#[derive(Debug, Default)]
pub struct Meters {
    /// Bytes of the input files read, as they lie on disk.
    pub bytes_read: Count,
    /// Rows put on the input topic.
    pub rows_in: Count,
    /// Rows scored.
    pub rows_scored: Count,
    /// Rows that became dead letters.
    pub rows_dead: Count,
    /// Rows that the sink has written.
    pub rows_out: Count,
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A record of the state topic: JSON under a key.
///
/// # Errors
/// None that depends on the value.
pub fn state_record<T: Serialize>(key: &str, value: &T) -> Result<Record, FormatError> {
    let json = serde_json::to_vec(value).map_err(|e| FormatError::new(format!("the state record {key}"), e))?;
    Ok(Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::from(json)),
        headers: vec![("content-type".to_owned(), Bytes::from_static(b"application/json"))],
        timestamp_ms: now_ms(),
    })
}

/// The state topic's newest record of each key, as far as it was read.
pub struct StateView {
    reader: Box<dyn Consumer>,
    values: HashMap<Bytes, Bytes>,
}

impl StateView {
    /// Reads the topic from its beginning.
    ///
    /// # Errors
    /// The log's.
    pub fn new(log: &dyn Log, topic: &Arc<str>) -> crate::log::Result<Self> {
        let at = TopicPartition::new(Arc::clone(topic), 0);
        let start = log.offsets(&at)?.start;
        let mut view = Self { reader: log.reader(&[(at, start)])?, values: HashMap::new() };
        view.refresh()?;
        Ok(view)
    }

    /// Reads what came since.
    ///
    /// # Errors
    /// The log's.
    pub fn refresh(&mut self) -> crate::log::Result<()> {
        self.wait(Duration::ZERO).map(drop)
    }

    /// Reads what came since, waiting up to `timeout` for something. Answers whether there was anything.
    ///
    /// # Errors
    /// The log's.
    pub fn wait(&mut self, timeout: Duration) -> crate::log::Result<bool> {
        let (mut timeout, mut is_new) = (timeout, false);
        while let Event::Records(messages) = self.reader.poll(timeout)? {
            (timeout, is_new) = (Duration::ZERO, true);
            for record in messages.into_iter().map(|message| message.record) {
                match (record.key, record.value) {
                    (Some(key), Some(value)) => drop(self.values.insert(key, value)),
                    (Some(key), None) => drop(self.values.remove(&key)),
                    (None, _) => {}
                }
            }
        }
        Ok(is_new)
    }

    /// The value under `key`, if any.
    ///
    /// # Errors
    /// Where it is not of this form.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, FormatError> {
        let value = self.values.get(key.as_bytes());
        value
            .map(|value| {
                serde_json::from_slice(value).map_err(|e| FormatError::new(format!("the state record {key}"), e))
            })
            .transpose()
    }

    /// The keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<_> = self
            .values
            .keys()
            .filter_map(|key| std::str::from_utf8(key).ok())
            .filter(|key| key.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }
}
