//! What is written: order, atomicity, isolation, fencing, and records kept as they are.

use super::*;

pub fn records_are_read_in_the_order_in_which_they_were_sent(harness: &mut dyn Harness) {
    let to = one(harness);
    for i in 0..10 {
        fill(harness, &to, 100 * i..100 * (i + 1));
    }
    let log = harness.log();
    let mut reader = log.reader(&[(to.clone(), log.offsets(&to).unwrap().start)]).unwrap();
    let messages = read(&mut *reader, 1000);
    assert_eq!(texts(&messages), numbers(0..1000));
    assert!(messages.is_sorted_by(|a, b| a.offset < b.offset));
    assert!(messages.iter().all(|message| message.source == to));
    let range = log.offsets(&to).unwrap();
    assert!(range.start <= messages[0].offset && messages[999].offset < range.end);
    let next = reader.next_offset(&to).unwrap();
    assert!(messages[999].offset < next && next <= range.end);
}

pub fn each_partition_has_its_own_order(harness: &mut dyn Harness) {
    let to = topic(harness, 3, Cleanup::Delete);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    for round in 0..20 {
        commit(&mut *producer, (0..30).map(|i| (to[i % 3].clone(), value(round * 30 + i))));
    }
    let from: Vec<_> = to.iter().map(|at| (at.clone(), log.offsets(at).unwrap().start)).collect();
    let messages = read(&mut *log.reader(&from).unwrap(), 600);
    for (number, at) in to.iter().enumerate() {
        let own: Vec<_> = messages.iter().filter(|message| message.source == *at).cloned().collect();
        let wanted: Vec<_> = (0..200).map(|i| (3 * i + number).to_string()).collect();
        assert_eq!(texts(&own), wanted);
        assert!(own.is_sorted_by(|a, b| a.offset < b.offset));
    }
}

pub fn interleaved_producers_keep_their_order(harness: &mut dyn Harness) {
    let to = one(harness);
    let ids: Vec<_> = (0..4).map(|_| harness.fresh("producer")).collect();
    let log = harness.log();
    thread::scope(|scope| {
        for (number, id) in ids.iter().enumerate() {
            let (log, to) = (&log, &to);
            scope.spawn(move || {
                let mut producer = log.producer(id).unwrap();
                for round in 0..10 {
                    commit(
                        &mut *producer,
                        (0..5).map(|i| (to.clone(), value(format!("{number}:{:03}", round * 5 + i)))),
                    );
                }
            });
        }
    });
    let messages = all(&*log, &[to]);
    assert_eq!(messages.len(), 200);
    for number in 0..4 {
        let prefix = format!("{number}:");
        let own: Vec<_> = texts(&messages).into_iter().filter(|text| text.starts_with(&prefix)).collect();
        assert_eq!(own, (0..50).map(|i| format!("{number}:{i:03}")).collect::<Vec<_>>());
    }
}

pub fn a_transaction_over_topics_and_positions_is_visible_as_a_whole(harness: &mut dyn Harness) {
    let (input, first, second) = (one(harness), one(harness), one(harness));
    fill(harness, &input, 0..3);
    let (group, id) = (harness.fresh("group"), harness.fresh("producer"));
    let log = harness.log();
    let (mut consumer, _) = join(&*log, &group, &[&input.topic], StartAt::Earliest);
    read(&mut *consumer, 3);
    let next = consumer.next_offset(&input).unwrap();

    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    producer.send(&first, value("a")).unwrap();
    producer.send(&second, value("b")).unwrap();
    producer.send_positions(&consumer.group_metadata().unwrap(), &[(input.clone(), position(next.0))]).unwrap();
    assert_eq!(log.position(&group, &input).unwrap(), None);
    let outputs = [first, second];
    assert!(all(&*log, &outputs).is_empty());

    producer.commit().unwrap();
    assert_eq!(log.position(&group, &input).unwrap(), Some(position(next.0)));
    let mut found = texts(&all(&*log, &outputs));
    found.sort();
    assert_eq!(found, ["a", "b"]);
}

pub fn open_and_aborted_transactions_are_not_seen(harness: &mut dyn Harness) {
    let to = one(harness);
    let (group, id, other) = (harness.fresh("group"), harness.fresh("producer"), harness.fresh("producer"));
    let log = harness.log();
    let start = log.offsets(&to).unwrap().start;
    let (consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    producer.send(&to, value("aborted")).unwrap();
    producer.send_positions(&consumer.group_metadata().unwrap(), &[(to.clone(), position(start.0))]).unwrap();
    let mut reader = log.reader(&[(to.clone(), start)]).unwrap();
    nothing_comes(&mut *reader);
    producer.abort().unwrap();
    nothing_comes(&mut *reader);
    assert_eq!(log.position(&group, &to).unwrap(), None);

    commit(&mut *log.producer(&other).unwrap(), [(to.clone(), value("other"))]);
    commit(&mut *producer, [(to.clone(), value("committed"))]);
    assert_eq!(texts(&read(&mut *reader, 2)), ["other", "committed"]);
    nothing_comes(&mut *reader);
}

pub fn a_dropped_producer_leaves_nothing(harness: &mut dyn Harness) {
    let to = one(harness);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    producer.send(&to, value("open")).unwrap();
    drop(producer);
    commit(&mut *log.producer(&id).unwrap(), [(to.clone(), value("next"))]);
    assert_eq!(texts(&all(&*log, &[to])), ["next"]);
}

pub fn a_newer_producer_fences_the_older_one(harness: &mut dyn Harness) {
    let to = one(harness);
    let (id, group) = (harness.fresh("producer"), harness.fresh("group"));
    let log = harness.log();
    let (consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    let metadata = consumer.group_metadata().unwrap();
    let mut older = log.producer(&id).unwrap();
    older.begin().unwrap();
    older.send(&to, value("older")).unwrap();
    let mut newer = log.producer(&id).unwrap();
    let is_fenced = |result: Result<(), LogError>| match result {
        Err(LogError::Fenced { transactional_id }) => assert_eq!(transactional_id, id),
        other => panic!("{other:?}"),
    };
    is_fenced(older.commit());
    is_fenced(older.begin());
    is_fenced(older.send(&to, value("older")));
    is_fenced(older.send_positions(&metadata, &[(to.clone(), position(0))]));
    is_fenced(older.commit());
    is_fenced(older.abort());
    commit(&mut *newer, [(to.clone(), value("newer"))]);
    drop(older);
    commit(&mut *newer, [(to.clone(), value("newest"))]);
    assert_eq!(texts(&all(&*log, &[to])), ["newer", "newest"]);
}

/// Sets a flag when its scope ends, also if that is by a panic.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub fn nothing_of_a_fenced_producer_comes_once_its_successor_is_open(harness: &mut dyn Harness) {
    const ROUNDS: u32 = 40;
    let (to, busy) = (one(harness), one(harness));
    let (id, other) = (harness.fresh("producer"), harness.fresh("producer"));
    let log = harness.log();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Somebody else keeps the log busy, so that the older one and its successor wait in line.
        scope.spawn(|| {
            let mut producer = log.producer(&other).unwrap();
            while !over.load(Ordering::SeqCst) {
                commit(&mut *producer, [(busy.clone(), value("x"))]);
            }
        });
        let _over = AtEnd(&over);
        for _ in 0..ROUNDS {
            let mut older = log.producer(&id).unwrap();
            commit(&mut *older, [(to.clone(), value("x"))]);
            let fenced = scope.spawn({
                let to = &to;
                move || {
                    loop {
                        let mut write = || {
                            older.begin()?;
                            older.send(to, value("x"))?;
                            older.commit()
                        };
                        if let Err(error) = write() {
                            return error;
                        }
                    }
                }
            });
            let newer = log.producer(&id).unwrap();
            let end = log.offsets(&to).unwrap().end;
            assert!(matches!(fenced.join().unwrap(), LogError::Fenced { .. }));
            assert_eq!(log.offsets(&to).unwrap().end, end);
            drop(newer);
        }
    });
}

pub fn producers_with_other_ids_are_not_fenced(harness: &mut dyn Harness) {
    let to = one(harness);
    let (first, second) = (harness.fresh("producer"), harness.fresh("producer"));
    let log = harness.log();
    let mut first = log.producer(&first).unwrap();
    first.begin().unwrap();
    first.send(&to, value("first")).unwrap();
    let mut second = log.producer(&second).unwrap();
    commit(&mut *second, [(to.clone(), value("second"))]);
    first.commit().unwrap();
    let mut found = texts(&all(&*log, &[to]));
    found.sort();
    assert_eq!(found, ["first", "second"]);
}

pub fn calls_that_the_transactions_state_does_not_allow(harness: &mut dyn Harness) {
    let to = one(harness);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    let not_allowed = |result: Result<(), LogError>, name: &str| match result {
        Err(LogError::TransactionState { call, .. }) => assert_eq!(call, name),
        other => panic!("{other:?}"),
    };
    not_allowed(producer.send(&to, value(0)), "send");
    not_allowed(producer.commit(), "commit");
    producer.abort().unwrap();
    producer.begin().unwrap();
    producer.send(&to, value(1)).unwrap();
    not_allowed(producer.begin(), "begin");
    producer.commit().unwrap();
    not_allowed(producer.commit(), "commit");
    producer.begin().unwrap();
    producer.abort().unwrap();
    producer.abort().unwrap();
    not_allowed(producer.send(&to, value(0)), "send");
    assert_eq!(texts(&all(&*log, &[to])), ["1"]);
}

pub fn a_record_that_is_too_large_leaves_the_transaction_open(harness: &mut dyn Harness) {
    let to = one(harness);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    let sized = |size: usize| {
        let mut record = Record { key: Some(Bytes::from_static(b"key")), timestamp_ms: 1, ..Record::default() };
        record.headers.push(("name".to_owned(), Bytes::from_static(b"header")));
        record.value = Some(Bytes::from(vec![b'x'; size - record.size()]));
        record
    };
    match producer.send(&to, sized(MAX_RECORD_BYTES + 1)) {
        Err(LogError::RecordTooLarge { at, size, limit }) => {
            assert_eq!((at, size, limit), (to.clone(), MAX_RECORD_BYTES + 1, MAX_RECORD_BYTES));
        }
        other => panic!("{other:?}"),
    }
    let largest = sized(MAX_RECORD_BYTES);
    producer.send(&to, largest.clone()).unwrap();
    producer.commit().unwrap();
    let messages = all(&*log, &[to]);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].record, largest);
}

pub fn metadata_has_a_limit(harness: &mut dyn Harness) {
    let to = one(harness);
    let (id, group) = (harness.fresh("producer"), harness.fresh("group"));
    let log = harness.log();
    let (consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    let metadata = consumer.group_metadata().unwrap();
    let sized = |size: usize| [(to.clone(), Position { offset: Offset(0), metadata: "x".repeat(size) })];
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    let refused = producer.send_positions(&metadata, &sized(4097));
    assert!(matches!(refused, Err(LogError::MetadataTooLarge { size: 4097 })));
    producer.send_positions(&metadata, &sized(4096)).unwrap();
    producer.commit().unwrap();
    assert_eq!(log.position(&group, &to).unwrap().unwrap().metadata.len(), 4096);
}

pub fn records_are_kept_exactly(harness: &mut dyn Harness) {
    let to = one(harness);
    let id = harness.fresh("producer");
    let bytes = |bytes: &[u8]| Some(Bytes::copy_from_slice(bytes));
    let header = |name: &str, value: &[u8]| -> Header { (name.to_owned(), Bytes::copy_from_slice(value)) };
    let every_byte: Vec<u8> = (0..=255).collect();
    let records = vec![
        Record { timestamp_ms: 0, ..Record::default() },
        Record { key: bytes(b""), value: bytes(b""), timestamp_ms: 1, headers: vec![] },
        Record { key: bytes(b"key"), value: None, timestamp_ms: 1_700_000_000_123, headers: vec![] },
        Record {
            key: bytes(&every_byte),
            value: bytes(&every_byte.repeat(1000)),
            timestamp_ms: 1,
            headers: vec![header("b", b"1"), header("a", b""), header("b", &every_byte), header("\u{e4}", b"2")],
        },
        Record { value: bytes(&vec![0; 100_000]), timestamp_ms: 4_102_444_800_000, ..Record::default() },
    ];
    {
        let log = harness.log();
        let mut producer = log.producer(&id).unwrap();
        commit(&mut *producer, records.iter().cloned().map(|record| (to.clone(), record)));
        for record in &records {
            commit(&mut *producer, [(to.clone(), record.clone())]);
        }
    }
    for again in [false, true] {
        if again {
            harness.reopen();
        }
        let found: Vec<Record> =
            all(&*harness.log(), std::slice::from_ref(&to)).into_iter().map(|message| message.record).collect();
        assert_eq!(found, [records.clone(), records.clone()].concat());
    }
}

pub fn an_empty_transaction_commits(harness: &mut dyn Harness) {
    let to = one(harness);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    for _ in 0..3 {
        producer.begin().unwrap();
        producer.commit().unwrap();
    }
    commit(&mut *producer, [(to.clone(), value("after"))]);
    assert_eq!(texts(&all(&*log, &[to])), ["after"]);
}

pub fn all_is_there_after_reopening(harness: &mut dyn Harness) {
    let to = topic(harness, 3, Cleanup::Delete);
    for round in 0..20 {
        for (number, at) in (0..).zip(&to) {
            fill(harness, at, 1000 * number + 5 * round..1000 * number + 5 * (round + 1));
        }
        if round % 7 == 3 {
            harness.reopen();
        }
    }
    let before = all(&*harness.log(), &to);
    harness.reopen();
    for (number, at) in (0..).zip(&to) {
        let found = all(&*harness.log(), std::slice::from_ref(at));
        assert_eq!(texts(&found), numbers(1000 * number..1000 * number + 100));
        assert!(found.iter().all(|message| before.contains(message)));
    }
}
