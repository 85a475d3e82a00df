//! What is read: positions, seeks, groups, readers, and waiting.

use super::*;

pub fn a_consumer_resumes_at_its_groups_positions(harness: &mut dyn Harness) {
    let to = topic(harness, 2, Cleanup::Delete);
    fill(harness, &to[0], 0..10);
    fill(harness, &to[1], 10..20);
    let (group, id) = (harness.fresh("group"), harness.fresh("producer"));
    let metadata = "rows 0..4,6..9 \u{e4}\"\0";
    let resume = {
        let log = harness.log();
        let (mut consumer, assigned) = join(&*log, &group, &[&to[0].topic], StartAt::Earliest);
        assert_eq!(assigned.iter().map(|(at, _)| at.clone()).collect::<Vec<_>>(), to);
        let messages = read(&mut *consumer, 20);
        let fifth = messages.iter().filter(|message| message.source == to[0]).nth(4).unwrap().offset;
        let mut producer = log.producer(&id).unwrap();
        producer.begin().unwrap();
        let committed = Position { offset: fifth, metadata: metadata.to_owned() };
        producer.send_positions(&consumer.group_metadata().unwrap(), &[(to[0].clone(), committed)]).unwrap();
        producer.commit().unwrap();
        fifth
    };
    for again in [false, true] {
        if again {
            harness.reopen();
        }
        let log = harness.log();
        let committed = log.position(&group, &to[0]).unwrap().unwrap();
        assert_eq!((committed.offset, committed.metadata.as_str()), (resume, metadata));
        assert_eq!(log.position(&group, &to[1]).unwrap(), None);
        let (mut consumer, assigned) = join(&*log, &group, &[&to[0].topic], StartAt::Earliest);
        assert!(assigned.contains(&(to[0].clone(), resume)));
        let mut found = texts(&read(&mut *consumer, 16));
        found.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(found, numbers(4..20));
    }
}

pub fn groups_do_not_share_positions(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..3);
    let (first, second, id) = (harness.fresh("group"), harness.fresh("group"), harness.fresh("producer"));
    let log = harness.log();
    let (mut consumer, _) = join(&*log, &first, &[&to.topic], StartAt::Earliest);
    read(&mut *consumer, 3);
    let next = consumer.next_offset(&to).unwrap();
    let mut producer = log.producer(&id).unwrap();
    producer.begin().unwrap();
    producer.send_positions(&consumer.group_metadata().unwrap(), &[(to.clone(), position(next.0))]).unwrap();
    producer.commit().unwrap();
    assert_eq!(log.position(&second, &to).unwrap(), None);
    let (mut consumer, _) = join(&*log, &second, &[&to.topic], StartAt::Earliest);
    assert_eq!(texts(&read(&mut *consumer, 3)), numbers(0..3));
}

pub fn a_group_without_positions_starts_where_it_is_told(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..3);
    let (earliest, latest) = (harness.fresh("group"), harness.fresh("group"));
    let log = harness.log();
    let (mut from_start, assigned) = join(&*log, &earliest, &[&to.topic], StartAt::Earliest);
    assert_eq!(assigned, [(to.clone(), log.offsets(&to).unwrap().start)]);
    let (mut from_end, assigned) = join(&*log, &latest, &[&to.topic], StartAt::Latest);
    assert_eq!(assigned, [(to.clone(), log.offsets(&to).unwrap().end)]);
    fill(harness, &to, 3..5);
    assert_eq!(texts(&read(&mut *from_start, 5)), numbers(0..5));
    assert_eq!(texts(&read(&mut *from_end, 2)), numbers(3..5));
}

pub fn a_seek_goes_back_and_forth(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..10);
    let group = harness.fresh("group");
    let log = harness.log();
    let (mut consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    let messages = read(&mut *consumer, 10);
    consumer.seek(&to, messages[3].offset).unwrap();
    assert_eq!(consumer.next_offset(&to), Some(messages[3].offset));
    assert_eq!(read(&mut *consumer, 7), messages[3..]);
    consumer.seek(&to, messages[0].offset).unwrap();
    consumer.seek(&to, messages[8].offset).unwrap();
    assert_eq!(read(&mut *consumer, 2), messages[8..]);
    consumer.seek(&to, log.offsets(&to).unwrap().end).unwrap();
    nothing_comes(&mut *consumer);

    let other = TopicPartition::new(Arc::clone(&to.topic), 1);
    assert_eq!(consumer.next_offset(&other), None);
    assert!(matches!(consumer.seek(&other, Offset(0)), Err(LogError::NotAssigned { at }) if at == other));
}

pub fn an_offset_outside_the_range_is_an_error_until_somebody_seeks(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..10);
    let log = harness.log();
    let start = log.offsets(&to).unwrap().start;
    let mut reader = log.reader(&[(to.clone(), start)]).unwrap();
    let messages = read(&mut *reader, 10);
    log.trim(&to, messages[5].offset).unwrap();
    let range = log.offsets(&to).unwrap();
    for outside in [messages[4].offset, Offset(range.end.0 + 1), Offset(range.end.0 + 1000)] {
        reader.seek(&to, outside).unwrap();
        match reader.poll(PATIENCE) {
            Err(LogError::OffsetOutOfRange { at, offset, start, end }) => {
                assert_eq!((at, offset, start, end), (to.clone(), outside, range.start, range.end));
            }
            other => panic!("{other:?}"),
        }
        reader.seek(&to, messages[5].offset).unwrap();
        assert_eq!(read(&mut *reader, 5), messages[5..]);
    }
    // Behind the end is outside even if records come there later.
    let mut early = log.reader(&[(to.clone(), Offset(range.end.0 + 1))]).unwrap();
    assert!(matches!(early.poll(PATIENCE), Err(LogError::OffsetOutOfRange { .. })));
}

pub fn a_reader_is_no_member_of_a_group(harness: &mut dyn Harness) {
    let to = one(harness);
    fill(harness, &to, 0..5);
    let group = harness.fresh("group");
    let log = harness.log();
    let (mut consumer, _) = join(&*log, &group, &[&to.topic], StartAt::Earliest);
    assert_eq!(consumer.group_metadata().unwrap().group, group);
    let mut reader = log.reader(&[(to.clone(), log.offsets(&to).unwrap().start)]).unwrap();
    assert_eq!(reader.group_metadata(), None);
    assert_eq!(texts(&read(&mut *reader, 5)), numbers(0..5));
    assert_eq!(texts(&read(&mut *consumer, 5)), numbers(0..5));
    assert_eq!(log.position(&group, &to).unwrap(), None);
}

pub fn a_reader_reads_only_what_it_was_given(harness: &mut dyn Harness) {
    let to = topic(harness, 3, Cleanup::Delete);
    for at in &to {
        fill(harness, at, 0..4);
    }
    let log = harness.log();
    let offsets: Vec<_> = all(&*log, &to[1..2]).into_iter().map(|message| message.offset).collect();
    let mut reader = log.reader(&[(to[1].clone(), offsets[2])]).unwrap();
    let messages = read(&mut *reader, 2);
    assert!(messages.iter().all(|message| message.source == to[1]));
    assert_eq!(texts(&messages), numbers(2..4));
    nothing_comes(&mut *reader);
    assert_eq!(reader.next_offset(&to[0]), None);
}

pub fn nothing_new_is_idle(harness: &mut dyn Harness) {
    let to = one(harness);
    let log = harness.log();
    let mut reader = log.reader(&[(to.clone(), log.offsets(&to).unwrap().end)]).unwrap();
    assert_eq!(reader.poll(Duration::ZERO).unwrap(), Event::Idle);
    assert_eq!(reader.poll(Duration::from_millis(1)).unwrap(), Event::Idle);
    fill(harness, &to, 0..1);
    assert_eq!(texts(&read(&mut *reader, 1)), ["0"]);
    nothing_comes(&mut *reader);
}

pub fn a_commit_wakes_a_waiting_poll(harness: &mut dyn Harness) {
    let (asked, answered) = (one(harness), one(harness));
    let ids = [harness.fresh("producer"), harness.fresh("producer")];
    let log = harness.log();
    let start = |at: &TopicPartition| (at.clone(), log.offsets(at).unwrap().start);
    let (ask, answer) = (start(&asked), start(&answered));
    // Each waits for the other's record, so one of them is always waiting; no poll may time out.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut reader = log.reader(&[ask]).unwrap();
            let mut producer = log.producer(&ids[0]).unwrap();
            for round in 0..20 {
                assert_eq!(texts(&read(&mut *reader, 1)), [format!("ask {round}")]);
                commit(&mut *producer, [(answered.clone(), value(format!("answer {round}")))]);
            }
        });
        let mut reader = log.reader(&[answer]).unwrap();
        let mut producer = log.producer(&ids[1]).unwrap();
        for round in 0..20 {
            commit(&mut *producer, [(asked.clone(), value(format!("ask {round}")))]);
            assert_eq!(texts(&read(&mut *reader, 1)), [format!("answer {round}")]);
        }
    });
}

pub fn an_answer_is_bounded(harness: &mut dyn Harness) {
    let to = topic(harness, 2, Cleanup::Delete);
    let id = harness.fresh("producer");
    let log = harness.log();
    let mut producer = log.producer(&id).unwrap();
    let value = Bytes::from(vec![7; 300_000]);
    for _ in 0..4 {
        let record = Record { value: Some(value.clone()), timestamp_ms: 1, ..Record::default() };
        commit(&mut *producer, (0..10).map(|i| (to[i % 2].clone(), record.clone())));
    }
    let from: Vec<_> = to.iter().map(|at| (at.clone(), log.offsets(at).unwrap().start)).collect();
    let mut reader = log.reader(&from).unwrap();
    let mut count = 0;
    while count < 40 {
        if let Event::Records(records) = reader.poll(PATIENCE).unwrap() {
            count += records.len();
            assert!(records.iter().map(|message| message.record.size()).sum::<usize>() <= 5 << 20);
        }
    }
    assert_eq!(count, 40);
}
