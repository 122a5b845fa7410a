//! What watchers are told.

use evenkeel_protocol::Position;
use evenkeel_protocol::v1::watch_event::Kind;

use super::*;
use crate::ChangesError;

fn told(partition: &Partition, after: u64, prefix: &str, limit: usize) -> (String, u64) {
    let changes = partition.reader.changes(Position(after), prefix.as_bytes(), limit, usize::MAX).unwrap();
    let events = changes.events.iter().map(|event| {
        let sign = if event.kind() == Kind::Put { '+' } else { '-' };
        format!("{sign}{}", describe_record(event.record.as_ref().unwrap()))
    });
    (events.collect::<Vec<_>>().join(" "), changes.up_to.0)
}

#[tokio::test]
async fn every_write_is_told_once_and_in_order() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition
        .apply(&["#1.1 put a x", "#1.1 put a x", "put a y v7", "put b x ; put a y ; del b", "del c"])
        .await;
    assert_eq!(told(&partition, 0, "", 99), ("+a=x@1v1 +b=x@4v1 +a=y@4v2 -b=@4v1".into(), 5));
    assert_eq!(told(&partition, 1, "", 99), ("+b=x@4v1 +a=y@4v2 -b=@4v1".into(), 5));
    assert_eq!(told(&partition, 5, "", 99), ("".into(), 5));
    assert_eq!(told(&partition, 9, "", 99), ("".into(), 9));
}

#[tokio::test]
async fn a_page_ends_between_positions_and_the_next_goes_on_after_it() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put a 1 ; put b 1", "del z", "put a 2", "put b 2"]).await;
    assert_eq!(told(&partition, 0, "", 1), ("+a=1@1v1 +b=1@1v1".into(), 2));
    assert_eq!(told(&partition, 2, "", 1), ("+a=2@3v2".into(), 3));
    assert_eq!(told(&partition, 3, "", 1), ("+b=2@4v2".into(), 4));
}

#[tokio::test]
async fn a_watcher_of_a_prefix_gets_on_even_when_nothing_matches() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put a 1", "put b 1", "put a 2"]).await;
    assert_eq!(told(&partition, 0, "b", 99), ("+b=1@2v1".into(), 3));
    assert_eq!(told(&partition, 0, "c", 99), ("".into(), 3));
}

#[tokio::test]
async fn only_the_newest_changes_are_kept() {
    let options = StoreOptions { changes_retained_max: 4, ..small() };
    let (_folder, store) = open_store(options);
    for together in [true, false] {
        let mut partition = Partition::open(&store, u32::from(together));
        let commands = (1..=10).map(|n| format!("put k {n}")).collect::<Vec<_>>();
        let commands = commands.iter().map(String::as_str).collect::<Vec<_>>();
        if together {
            partition.apply(&commands).await;
        } else {
            for command in commands {
                partition.apply(&[command]).await;
            }
        }
        assert_eq!(partition.reader.first_available_position(), Position(7));
        assert_eq!(told(&partition, 6, "", 99).0, "+k=7@7v7 +k=8@8v8 +k=9@9v9 +k=10@10v10");
        let error = partition.reader.changes(Position(5), b"", 99, 99).unwrap_err();
        assert!(matches!(error, ChangesError::OutOfRange { first_available: Position(7) }), "{error}");
        drop(partition);
        let partition = Partition::open(&store, u32::from(together));
        assert_eq!(partition.reader.first_available_position(), Position(7));
        assert_eq!(told(&partition, 6, "", 99).1, 10);
    }
}

#[tokio::test]
async fn changes_are_bounded_in_bytes_too() {
    let options = StoreOptions { changes_retained_bytes_max: 10_000, ..small() };
    let (_folder, store) = open_store(options);
    let mut partition = Partition::open(&store, 1);
    let value = "x".repeat(1_000);
    for n in 1..=30 {
        partition.apply(&[&format!("put k{n} {value}")]).await;
    }
    let first = partition.reader.first_available_position().0;
    assert!((22..=23).contains(&first), "{first}");
    assert_eq!(
        partition.reader.changes(Position(first - 1), b"", 99, 99_999).unwrap().events.len() as u64,
        31 - first
    );
}

#[tokio::test]
async fn waiting_watchers_are_woken_by_an_apply() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let mut applied = partition.reader.applied();
    let waiting = tokio::spawn(async move { *applied.wait_for(|applied| *applied >= 2).await.unwrap() });
    partition.apply(&["put a 1", "put a 2"]).await;
    assert_eq!(waiting.await.unwrap(), 2);
}
