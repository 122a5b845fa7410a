//! Small histories, each accepted or refused for one reason.

use evenkeel_history::{Answer, Condition, History, Request, Stored, Violation};

fn put(value: &str) -> Request {
    Request::Put { value: value.into(), condition: None }
}

fn put_if(value: &str, condition: Condition) -> Request {
    Request::Put { value: value.into(), condition: Some(condition) }
}

const DELETE: Request = Request::Delete { condition: None };

fn is(version: u64, position: u64) -> Answer {
    Answer::Put { version, position }
}

fn read(value: &str, version: u64, position: u64) -> Answer {
    Answer::Read(Some(Stored { value: value.into(), version, position }))
}

/// Operations on one key: called at, answered at, request, answer.
fn check(operations: &[(u64, u64, Request, Answer)]) -> Result<(), Violation> {
    let mut history = History::new();
    for (client, (called_at, answered_at, request, answer)) in operations.iter().enumerate() {
        let id = history.call(*called_at, client as u64, "k", request.clone());
        history.answer(*answered_at, id, answer.clone());
    }
    history.check()
}

fn refused(operations: &[(u64, u64, Request, Answer)]) -> bool {
    match check(operations) {
        Err(Violation::NotLinearizable { report, .. }) => report.contains("> ["),
        other => panic!("{other:?}"),
    }
}

#[test]
fn operations_one_after_the_other_are_explained() {
    check(&[
        (0, 1, Request::Get, Answer::Read(None)),
        (2, 3, put("a"), is(1, 10)),
        (4, 5, Request::Get, read("a", 1, 10)),
        (6, 7, put("b"), is(2, 12)),
        (8, 9, DELETE, Answer::Deleted { existed: true, position: 13 }),
        (10, 11, Request::Get, Answer::Read(None)),
        (12, 13, DELETE, Answer::Deleted { existed: false, position: 14 }),
        (14, 15, put("c"), is(1, 15)),
    ])
    .unwrap();
}

#[test]
fn a_lost_write_is_refused() {
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, Request::Get, Answer::Read(None))]));
    assert!(refused(&[
        (0, 1, put("a"), is(1, 10)),
        (2, 3, put("b"), is(2, 11)),
        (4, 5, Request::Get, read("a", 1, 10)),
    ]));
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, put("b"), is(1, 11))]));
}

#[test]
fn a_stale_read_is_refused_only_when_the_newer_write_was_over() {
    let history = |read_began| {
        check(&[
            (0, 1, put("a"), is(1, 10)),
            (2, 5, put("b"), is(2, 11)),
            (read_began, 9, Request::Get, read("a", 1, 10)),
        ])
    };
    history(3).unwrap();
    history(5).unwrap();
    assert!(history(6).is_err());
}

#[test]
fn reads_do_not_go_back() {
    assert!(refused(&[
        (0, 1, put("a"), is(1, 10)),
        (2, 20, put("b"), is(2, 11)),
        (3, 4, Request::Get, read("b", 2, 11)),
        (5, 6, Request::Get, read("a", 1, 10)),
    ]));
}

#[test]
fn a_write_applied_twice_is_refused() {
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, put("b"), is(3, 12))]));
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, Request::Get, read("a", 2, 11))]));
}

#[test]
fn an_open_write_may_have_happened_at_any_time_or_never() {
    let open = (2, 0, put("b"), Answer::Unknown);
    let first = (0, 1, put("a"), is(1, 10));
    check(&[first.clone(), open.clone(), (4, 5, Request::Get, read("a", 1, 10))]).unwrap();
    check(&[first.clone(), open.clone(), (4, 5, Request::Get, read("b", 2, 11))]).unwrap();
    let late = [
        first.clone(),
        open.clone(),
        (4, 5, Request::Get, read("a", 1, 10)),
        (6, 7, Request::Get, read("b", 2, 11)),
    ];
    check(&late).unwrap();
    check(&[first.clone(), open.clone(), (4, 5, put("c"), is(3, 12))]).unwrap();
    // But once at most, and not before its call.
    assert!(refused(&[first.clone(), open, (4, 5, put("c"), is(4, 12))]));
    assert!(refused(&[first, (2, 3, Request::Get, read("b", 2, 11)), (4, 0, put("b"), Answer::Unknown)]));
}

#[test]
fn an_open_write_does_not_come_back_after_it_was_overwritten() {
    assert!(refused(&[
        (0, 1, put("a"), is(1, 10)),
        (2, 0, put("b"), Answer::Unknown),
        (4, 5, Request::Get, read("b", 2, 11)),
        (6, 7, put("c"), is(3, 12)),
        (8, 9, Request::Get, read("b", 4, 13)),
    ]));
}

#[test]
fn what_was_not_done_has_no_effect() {
    check(&[(0, 1, put("a"), Answer::NotDone), (2, 3, put("b"), is(1, 10))]).unwrap();
    assert!(refused(&[(0, 1, put("a"), Answer::NotDone), (2, 3, Request::Get, read("a", 1, 10))]));
}

#[test]
fn conditions_are_judged() {
    let first = (0, 1, put_if("a", Condition::MustNotExist), is(1, 10));
    let failed = |version| Answer::ConditionFailed { current_version: version };
    check(&[first.clone(), (2, 3, put_if("b", Condition::MustNotExist), failed(Some(1)))]).unwrap();
    check(&[first.clone(), (2, 3, put_if("b", Condition::VersionEquals(1)), is(2, 11))]).unwrap();
    assert!(refused(&[first.clone(), (2, 3, put_if("b", Condition::VersionEquals(1)), failed(None))]));
    assert!(refused(&[first.clone(), (2, 3, put_if("b", Condition::MustNotExist), failed(Some(2)))]));
    assert!(refused(&[first.clone(), (2, 3, put_if("b", Condition::MustNotExist), is(2, 11))]));
    // Of two on the same version only one succeeds, however they overlap.
    assert!(refused(&[
        first,
        (2, 9, put_if("b", Condition::VersionEquals(1)), is(2, 11)),
        (2, 9, put_if("c", Condition::VersionEquals(1)), is(2, 12)),
    ]));
}

#[test]
fn positions_grow_with_the_order_of_effects() {
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, put("b"), is(2, 9))]));
    assert!(refused(&[(0, 1, put("a"), is(1, 10)), (2, 3, Request::Get, read("a", 1, 11))]));
}

#[test]
fn keys_are_judged_apart() {
    let mut history = History::new();
    for (at, key) in [(0, "a"), (2, "b")] {
        let id = history.call(at, 1, key, put(key));
        history.answer(at + 1, id, is(1, 10 + at));
    }
    history.check().unwrap();
    let id = history.call(9, 1, "b", Request::Get);
    history.answer(10, id, Answer::Read(None));
    let violation = history.check().unwrap_err().to_string();
    assert!(violation.contains("key b") && violation.contains("version 1, last position 12"), "{violation}");
}

#[test]
fn hundreds_of_open_writes_do_not_drown_the_search() {
    let mut operations = Vec::new();
    for i in 0..300 {
        operations.push((i, 0, put(&format!("open {i}")), Answer::Unknown));
        operations.push((i, 0, DELETE, Answer::Unknown));
    }
    operations.push((400, 401, put("x"), is(41, 100)));
    operations.push((402, 403, Request::Get, read("open 299", 7, 300)));
    check(&operations).unwrap();
    operations.push((404, 405, put("y"), is(7, 301)));
    check(&operations).unwrap();
    operations.push((406, 407, put("z"), is(500, 302)));
    assert!(refused(&operations));
}

#[test]
fn a_search_that_is_too_large_says_so_instead_of_passing() {
    let mut history = History::new();
    for client in 0..12 {
        history.call(0, client, "k", put_if(&client.to_string(), Condition::VersionEquals(client % 5 + 1)));
        history.call(0, client, "k", put(&client.to_string()));
        history.call(0, client, "k", Request::Delete { condition: Some(Condition::VersionEquals(client)) });
    }
    let id = history.call(1, 99, "k", Request::Get);
    history.answer(2, id, read("never written", 1, 1));
    let violation = history.check_within(50).unwrap_err();
    assert!(matches!(violation, Violation::Undecided { .. }), "{violation}");
    let violation = history.check().unwrap_err();
    assert!(matches!(violation, Violation::NotLinearizable { .. }), "{violation}");
}
