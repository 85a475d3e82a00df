//! Topics: compacted, trimmed, deleted, created, and those that are not there.

use super::*;

pub fn the_newest_record_of_each_key_survives(harness: &mut dyn Harness) {
    let to = topic(harness, 1, Cleanup::Compact).remove(0);
    let other = one(harness);
    let id = harness.fresh("producer");
    let mut offsets = BTreeMap::new();
    for round in 0..30 {
        let log = harness.log();
        let mut producer = log.producer(&id).unwrap();
        let value = format!("value {round}");
        let always = keyed("always", Some(&value));
        let some = keyed(&format!("{}", round % 7), Some(&value));
        commit(&mut *producer, [(to.clone(), always), (to.clone(), some)]);
        drop(producer);
        drop(log);
        fill(harness, &other, 0..20);
        if round % 10 == 9 {
            harness.reopen();
        }
    }
    let log = harness.log();
    let messages = all(&*log, std::slice::from_ref(&to));
    let found = table(&messages);
    assert_eq!(found.len(), 8);
    assert_eq!(found["always"], "value 29");
    for key in 0..7 {
        let last = (0..30).rfind(|round| round % 7 == key).unwrap();
        assert_eq!(found[&key.to_string()], format!("value {last}"));
    }
    // Records keep their offsets, whatever goes before them.
    for message in messages {
        offsets.insert(message.offset, message);
    }
    fill_compacted(&*log, &id, &to);
    drop(log);
    harness.reopen();
    for message in all(&*harness.log(), &[to]) {
        if let Some(before) = offsets.get(&message.offset) {
            assert_eq!(*before, message);
        }
    }
}

/// Sends one more record to a compacted topic.
fn fill_compacted(log: &dyn Log, id: &str, to: &TopicPartition) {
    commit(&mut *log.producer(id).unwrap(), [(to.clone(), keyed("always", Some("last")))]);
}

pub fn a_tombstone_deletes_its_key(harness: &mut dyn Harness) {
    let to = topic(harness, 1, Cleanup::Compact).remove(0);
    let other = one(harness);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    commit(&mut *producer, [(to.clone(), keyed("a", Some("1"))), (to.clone(), keyed("b", Some("2")))]);
    commit(&mut *producer, [(to.clone(), keyed("a", None)), (to.clone(), keyed("never there", None))]);
    let wanted = BTreeMap::from([("b".to_owned(), "2".to_owned())]);
    assert_eq!(table(&all(&*log, std::slice::from_ref(&to))), wanted);
    drop((producer, log));
    harness.reopen();
    assert_eq!(table(&all(&*harness.log(), std::slice::from_ref(&to))), wanted);
    for _ in 0..20 {
        fill(harness, &other, 0..20);
    }
    harness.reopen();
    assert_eq!(table(&all(&*harness.log(), std::slice::from_ref(&to))), wanted);
    let log = harness.log();
    commit(&mut *log.producer(&id).unwrap(), [(to.clone(), keyed("a", Some("3")))]);
    assert_eq!(table(&all(&*log, &[to])).len(), 2);
}

pub fn trimmed_records_are_gone(harness: &mut dyn Harness) {
    let to = topic(harness, 2, Cleanup::Delete);
    fill(harness, &to[0], 0..10);
    fill(harness, &to[1], 0..10);
    let log = harness.log();
    let messages = all(&*log, &to[..1]);
    log.trim(&to[0], messages[4].offset).unwrap();
    assert!(log.offsets(&to[0]).unwrap().start <= messages[4].offset);
    assert!(log.offsets(&to[0]).unwrap().start > messages[3].offset);
    assert_eq!(all(&*log, &to[..1]), messages[4..]);
    assert_eq!(texts(&all(&*log, &to[1..])), numbers(0..10));
    // A trim further back does nothing.
    log.trim(&to[0], messages[2].offset).unwrap();
    assert_eq!(all(&*log, &to[..1]), messages[4..]);
    fill(harness, &to[0], 10..12);
    assert_eq!(texts(&all(&*log, &to[..1])), numbers(4..12));
}

pub fn trimming_all_leaves_an_empty_range(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..10);
    let end = harness.log().offsets(&to).unwrap().end;
    harness.log().trim(&to, Offset(end.0 + 1_000_000)).unwrap();
    for again in [false, true] {
        if again {
            harness.reopen();
        }
        let range = harness.log().offsets(&to).unwrap();
        assert_eq!((range.start, range.end), (end, end));
    }
    fill(harness, &to, 10..11);
    let messages = all(&*harness.log(), &[to]);
    assert_eq!(texts(&messages), ["10"]);
    assert!(messages[0].offset >= end, "an offset is never used again");
}

pub fn a_deleted_topic_takes_its_records_and_positions_along(harness: &mut dyn Harness) {
    let (to, other) = (one(harness), one(harness));
    fill(harness, &to, 0..3);
    fill(harness, &other, 0..3);
    let (group, id) = (harness.fresh("group"), harness.fresh("producer"));
    {
        let log = harness.log();
        let (mut consumer, _) = join(&*log, &group, &[&to.topic, &other.topic], StartAt::Earliest);
        read(&mut *consumer, 6);
        let next = |at: &TopicPartition| position(consumer.next_offset(at).unwrap().0);
        let mut producer = log.producer(&id).unwrap();
        producer.begin().unwrap();
        let positions = [(to.clone(), next(&to)), (other.clone(), next(&other))];
        producer.send_positions(&consumer.group_metadata().unwrap(), &positions).unwrap();
        producer.commit().unwrap();
    }
    harness.log().delete_topic(&to.topic).unwrap();
    harness.log().delete_topic(&to.topic).unwrap();
    for again in [false, true] {
        if again {
            harness.reopen();
        }
        let log = harness.log();
        assert_eq!(log.topic(&to.topic).unwrap(), None);
        assert!(log.topics().unwrap().iter().all(|spec| spec.name != to.topic));
        assert!(matches!(log.offsets(&to), Err(LogError::UnknownTopic { topic }) if *topic == *to.topic));
        assert!(log.position(&group, &other).unwrap().is_some());
        assert_eq!(texts(&all(&*log, std::slice::from_ref(&other))), numbers(0..3));
    }
    let spec = TopicSpec { name: Arc::clone(&to.topic), partitions: 1, cleanup: Cleanup::Delete };
    for again in [false, true] {
        if again {
            harness.reopen();
        }
        let log = harness.log();
        log.create_topic(&spec).unwrap();
        assert!(all(&*log, std::slice::from_ref(&to)).is_empty());
        assert_eq!(log.position(&group, &to).unwrap(), None);
    }
}

pub fn creating_a_topic_again_does_nothing_or_is_an_error(harness: &mut dyn Harness) {
    let name: Arc<str> = harness.fresh("topic").into();
    let spec = TopicSpec { name: Arc::clone(&name), partitions: 2, cleanup: Cleanup::Delete };
    harness.log().create_topic(&spec).unwrap();
    let at = TopicPartition::new(Arc::clone(&name), 1);
    fill(harness, &at, 0..3);
    let log = harness.log();
    log.create_topic(&spec).unwrap();
    assert_eq!(texts(&all(&*log, &[at])), numbers(0..3));
    for other in [TopicSpec { partitions: 3, ..spec.clone() }, TopicSpec { cleanup: Cleanup::Compact, ..spec.clone() }]
    {
        match log.create_topic(&other) {
            Err(LogError::TopicDiffers { topic, found, wanted }) => {
                assert_eq!(*topic, *name);
                assert_ne!(found, wanted);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log.topic(&name).unwrap(), Some(spec.clone()));
    assert!(log.topics().unwrap().contains(&spec));
    assert!(log.topics().unwrap().is_sorted_by(|a, b| a.name < b.name));
}

pub fn names_that_no_topic_can_have(harness: &mut dyn Harness) {
    let log = harness.log();
    let too_long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "a/b", "\u{e4}", "a\0", &too_long] {
        let spec = TopicSpec { name: name.into(), partitions: 1, cleanup: Cleanup::Delete };
        match log.create_topic(&spec) {
            Err(LogError::InvalidTopic { name: refused }) => assert_eq!(refused, name),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    let fresh = harness.fresh("a.B_c-9");
    let longest = format!("{fresh}{}", "x".repeat(249 - fresh.len()));
    harness.log().create_topic(&TopicSpec { name: longest.into(), partitions: 1, cleanup: Cleanup::Delete }).unwrap();
    let none = TopicSpec { name: harness.fresh("topic").into(), partitions: 0, cleanup: Cleanup::Delete };
    assert!(matches!(harness.log().create_topic(&none), Err(LogError::InvalidPartitionCount { .. })));
}

pub fn what_is_not_there_is_named(harness: &mut dyn Harness) {
    let to = one(harness);
    let (id, group, nowhere) = (harness.fresh("producer"), harness.fresh("group"), harness.fresh("nowhere"));
    let log = harness.log();
    let no_topic = TopicPartition::new(nowhere.as_str(), 0);
    let no_partition = TopicPartition::new(Arc::clone(&to.topic), 1);
    let (consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    let metadata = consumer.group_metadata().unwrap();
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    for (at, partition_only) in [(&no_topic, false), (&no_partition, true)] {
        let errors = [
            log.offsets(at).unwrap_err(),
            log.position(&group, at).unwrap_err(),
            log.trim(at, Offset(0)).unwrap_err(),
            log.reader(&[(at.clone(), Offset(0))]).err().unwrap(),
            producer.send(at, value(0)).unwrap_err(),
            producer.send_positions(&metadata, &[(at.clone(), position(0))]).unwrap_err(),
        ];
        for error in errors {
            match error {
                LogError::UnknownTopic { topic } if !partition_only => assert_eq!(*topic, *at.topic),
                LogError::UnknownPartition { at: named } if partition_only => assert_eq!(named, *at),
                other => panic!("{at}: {other:?}"),
            }
        }
    }
    assert!(matches!(log.subscribe(&group, &[&nowhere], StartAt::Earliest), Err(LogError::UnknownTopic { .. })));
    assert_eq!(log.topic(&nowhere).unwrap(), None);
    // None of it harmed the transaction.
    producer.send(&to, value("fine")).unwrap();
    producer.commit().unwrap();
    assert_eq!(texts(&all(&*log, &[to])), ["fine"]);
}

pub fn a_compacted_topic_needs_keys(harness: &mut dyn Harness) {
    let to = topic(harness, 1, Cleanup::Compact).remove(0);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    assert!(matches!(producer.send(&to, value(1)), Err(LogError::KeyMissing { topic }) if *topic == *to.topic));
    producer.send(&to, keyed("", Some("empty"))).unwrap();
    producer.commit().unwrap();
    assert_eq!(texts(&all(&*log, &[to])), ["empty"]);
}
