//! Deliveries of watches, each accepted or refused for one reason.

use evenkeel_history::{Change, Delivery, WatchLog, WatchViolation};

fn change(position: u64) -> Change {
    Change { position, key: b"k".to_vec(), value: Some(position.to_string().into_bytes()) }
}

fn delivery(positions: &[u64], position: u64) -> Delivery {
    Delivery { changes: positions.iter().copied().map(change).collect(), position }
}

/// Deliveries to one watcher that began after position 2, with 3, 5 and 7 acknowledged.
fn check(deliveries: &[(&[u64], u64)]) -> Result<(), WatchViolation> {
    let mut log = WatchLog::new();
    log.begun(1, 4, 2);
    for position in [3, 5, 7] {
        log.acknowledged(4, change(position));
    }
    for (positions, position) in deliveries {
        log.delivered(1, 4, delivery(positions, *position));
        assert_eq!(log.position(1, 4), Some(*position));
    }
    log.check()
}

#[test]
fn each_change_once_and_in_order_is_right() {
    check(&[]).unwrap();
    check(&[(&[3], 4), (&[], 4), (&[5], 5), (&[6, 7], 9)]).unwrap();
    // What is beyond the last delivery may still come.
    check(&[(&[3, 5], 6)]).unwrap();
}

#[test]
fn a_change_told_again_or_late_is_refused() {
    for deliveries in
        [&[(&[3][..], 3), (&[3, 5], 5)][..], &[(&[5, 3], 5)], &[(&[3], 6), (&[5], 6)], &[(&[3, 5], 4)]]
    {
        let violation = check(deliveries).unwrap_err();
        assert!(matches!(violation, WatchViolation::OutOfOrder { .. }), "{violation}");
    }
}

#[test]
fn an_acknowledged_change_that_was_passed_over_is_refused() {
    for deliveries in [&[(&[3][..], 4), (&[7], 7)][..], &[(&[], 3)]] {
        let violation = check(deliveries).unwrap_err();
        assert!(matches!(violation, WatchViolation::Missed { .. }), "{violation}");
    }
}

#[test]
fn what_differs_from_what_was_acknowledged_or_told_to_others_is_refused() {
    let mut log = WatchLog::new();
    log.acknowledged(1, change(3));
    log.delivered(9, 1, Delivery { changes: vec![Change { value: None, ..change(3) }], position: 3 });
    assert!(matches!(log.check(), Err(WatchViolation::Differs { .. })), "{:?}", log.check());
}

#[test]
fn a_batch_changes_several_keys_at_one_position() {
    let mut log = WatchLog::new();
    let changes =
        vec![Change { key: b"a".to_vec(), ..change(3) }, Change { key: b"b".to_vec(), ..change(3) }];
    log.delivered(1, 1, Delivery { changes: changes.clone(), position: 3 });
    log.check().unwrap();
    log.delivered(1, 1, Delivery { changes, position: 3 });
    assert!(matches!(log.check(), Err(WatchViolation::OutOfOrder { .. })));
}
