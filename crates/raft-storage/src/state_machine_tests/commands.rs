//! What commands answer and leave behind.

use super::*;

/// (command, answer), then the records.
async fn check(table: &[(&str, &str)], records: &str) {
    let (_folder, store) = open_store(small());
    // One entry per batch, and all in one batch, must be the same.
    let mut alone = Partition::open(&store, 1);
    for (command, answer) in table {
        assert_eq!(alone.apply(&[command]).await, [*answer], "{command}");
    }
    assert_eq!(alone.keys(), records);
    let mut together = Partition::open(&store, 2);
    let commands = table.iter().map(|(command, _)| *command).collect::<Vec<_>>();
    let answers = table.iter().map(|(_, answer)| *answer).collect::<Vec<_>>();
    assert_eq!(together.apply(&commands).await, answers);
    assert_eq!(together.keys(), records);
    drop((alone, together));
    assert_eq!(Partition::open(&store, 1).keys(), records);
    assert_eq!(Partition::open(&store, 2).keys(), records);
}

#[tokio::test]
async fn versions_count_up_and_start_again_after_a_delete() {
    let table = [
        ("put a x", "@1 v1"),
        ("put a y", "@2 v2+"),
        ("put b z", "@3 v1"),
        ("del a", "@4 v0+"),
        ("del a", "@5 v0"),
        ("put a w", "@6 v1"),
    ];
    check(&table, "a=w@6v1 b=z@3v1").await;
}

#[tokio::test]
async fn a_write_whose_precondition_does_not_hold_changes_nothing() {
    let table = [
        ("put a x absent", "@1 v1"),
        ("put a y absent", "failed 0 at v1"),
        ("put a y v2", "failed 0 at v1"),
        ("put a y v1", "@4 v2+"),
        ("put b x v1", "failed 0 at v0"),
        ("del a v1", "failed 0 at v2"),
        ("del a absent", "failed 0 at v2"),
        ("del c absent", "@8 v0"),
        ("del c v1", "failed 0 at v0"),
    ];
    check(&table, "a=y@4v2").await;
    check(&[("put a x", "@1 v1"), ("del a v1", "@2 v0+")], "").await;
}

#[tokio::test]
async fn a_batch_sees_its_own_writes_and_is_all_or_nothing() {
    let table = [
        ("put a 1 ; put a 2 ; put b 1 absent", "@1 v1 v2+ v1"),
        ("del a ; put a 3 absent ; put a 4 v1", "@2 v0+ v1 v2+"),
        ("put a 5 ; del b ; put c 1 ; put b 2 v1", "failed 3 at v0"),
        ("put c 1 ; del c ; put c 2 ; del c v1", "@4 v1 v0+ v1 v0+"),
        ("put a 6 ; put a 7 ; put a 8 v2", "failed 2 at v4"),
    ];
    check(&table, "a=4@2v2 b=1@1v1").await;
}

#[tokio::test]
async fn a_retried_request_is_answered_as_the_first_time_and_applied_once() {
    let table = [
        ("#1.1 put a x", "@1 v1"),
        ("#1.1 put a x", "@1 v1"),
        ("#2.9 put a y v1", "@3 v2+"),
        ("#1.2 put a z v1", "failed 0 at v2"),
        ("del a", "@5 v0+"),
        ("#1.2 put a z v1", "failed 0 at v2"),
        ("#1.1 put a x", "superseded by 2"),
        ("#1.7 put b x", "@8 v1"),
        ("#1.7 something else entirely", "@8 v1"),
        ("#2.9 put a y v1", "@3 v2+"),
    ];
    check(&table, "b=x@8v1").await;
}

#[tokio::test]
async fn a_malformed_command_is_answered_and_the_group_goes_on() {
    let long = "k".repeat(40_000);
    let table = [
        ("what", "malformed: an operation is neither put nor delete"),
        ("put a x ; what", "malformed: an operation is neither put nor delete"),
        ("put  x", "malformed: a key is empty"),
        ("put a x present", "malformed: must_not_exist is false"),
        ("del a v0", "malformed: version_equals is 0"),
        (&format!("put {long} x"), "malformed: a key is too long"),
        ("", "@7"),
        ("put a x", "@8 v1"),
    ];
    check(&table, "a=x@8v1").await;
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let outcomes = partition.apply_entries(vec![entry(1, Bytes::from_static(&[0xff; 9]))]).await;
    assert_eq!(describe(&outcomes[0]), "malformed: the command is not a Command message");
    assert_eq!(*partition.reader.applied().borrow(), 1);
}

#[tokio::test]
async fn partitions_do_not_see_each_other() {
    let (_folder, store) = open_store(small());
    let mut partitions = [0, 1, 2, u32::MAX].map(|id| Partition::open(&store, id));
    for (n, partition) in partitions.iter_mut().enumerate() {
        partition.apply(&[&format!("#1.{n} put a {n}")]).await;
    }
    for (n, partition) in partitions.iter().enumerate() {
        assert_eq!(partition.keys(), format!("a={n}@1v1"));
    }
}

#[tokio::test]
async fn a_partition_is_open_once_at_a_time() {
    let (_folder, store) = open_store(small());
    let partition = Partition::open(&store, 1);
    let error = store.partition(1).err().unwrap();
    assert_eq!(error.to_string(), "state of partition 1: open already; stop its running replica first");
    drop(partition.machine);
    assert!(store.partition(1).is_ok());
}

#[tokio::test]
async fn lists_are_pages_in_key_order_of_a_prefix() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put b2 x", "put a x", "put b1 xx", "put c x", "put b3 x", "put b x"]).await;
    let list = |prefix: &str, after: &str, limit, bytes| {
        let (records, more) =
            partition.reader.list(prefix.as_bytes(), after.as_bytes(), limit, bytes).unwrap();
        let keys = records.iter().map(|r| text(&r.key).to_owned()).collect::<Vec<_>>().join(" ");
        (keys, more)
    };
    let all = usize::MAX;
    assert_eq!(list("", "", all, all), ("a b b1 b2 b3 c".into(), false));
    assert_eq!(list("b", "", 2, all), ("b b1".into(), true));
    assert_eq!(list("b", "b1", 2, all), ("b2 b3".into(), false));
    assert_eq!(list("b", "b3", 2, all), ("".into(), false));
    assert_eq!(list("b", "a", 1, all), ("b".into(), true));
    assert_eq!(list("", "b9", all, all), ("c".into(), false));
    assert_eq!(list("", "", all, 1), ("a".into(), true));
    assert_eq!(list("", "", all, 0), ("a".into(), true));
    assert_eq!(list("", "", 0, all), ("".into(), true));
}

#[tokio::test]
async fn a_failed_log_read_leaves_what_came_before_it_applied() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let entries = vec![Ok((entry(1, parse("put a x")), None)), Err(std::io::Error::other("log"))];
    let result = partition.machine.apply_all(futures::stream::iter(entries), |(): (), _| {}).await;
    assert_eq!(result.unwrap_err().to_string(), "log");
    assert_eq!(partition.keys(), "a=x@1v1");
    partition.next = 2;
    assert_eq!(partition.apply(&["put a y"]).await, ["@2 v2+"]);
}
