//! Snapshots that nobody made, and made ones that came to harm.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::snapshots::sent;
use super::*;
use crate::{SimulatedState, bad_input};

#[test]
fn no_bytes_in_place_of_a_snapshot_bring_the_receiver_down() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let store = StateStore::open_simulated(&SimulatedState::new(), small()).unwrap();
    drop(entered);
    let whole = runtime.block_on(async {
        let mut partition = Partition::open(&store, 1);
        partition.apply_entries(vec![membership(1)]).await;
        partition.apply(&["#1.5 put a x", "put b y", "put b z", "#2.1 put c x absent"]).await;
        sent(&mut partition).await.1.concat()
    });
    let receive = |bytes: &[u8]| runtime.block_on(bad_input::snapshot(&store, 1, bytes));
    receive(&whole).unwrap();

    let anything = proptest::collection::vec(any::<u8>(), 0..300);
    let harm = (any::<Index>(), any::<u8>());
    let harmed = (proptest::collection::vec(harm, 0..4), any::<Index>()).prop_map(|(changes, length)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // About half are cut short.
        bytes.truncate(length.index(2 * bytes.len()));
        bytes
    });
    let bytes = prop_oneof![anything, harmed];
    TestRunner::new(Config::with_cases(2_000))
        .run(&bytes, |bytes| {
            let _ = receive(&bytes);
            Ok(())
        })
        .unwrap();
    assert!(receive(&whole[..whole.len() - 1]).is_err(), "cut off before its end");
}
