use proptest::prelude::*;

use super::super::bad_input::recover;
use super::super::frame::{FrameHeader, Kind, Salt};
use super::super::segment::{HEADER_BYTES, encode_start};
use super::*;
use crate::bad_input::{frames, segment, well_formed_frames};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_bring_recovery_down(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        frames(&bytes);
        segment(&bytes);
        well_formed_frames(&bytes);
    }
}

#[test]
fn a_checkpoint_that_announces_more_entries_than_fit_is_refused_without_making_room_for_them() {
    let disk = FaultyDisk::new();
    let state = |first: u64, last: u64| {
        let numbers = [16, 0, 0, 0, 0, 0, 0, 0, 0, first, last, 0];
        numbers.iter().flat_map(|number: &u64| number.to_le_bytes()).collect::<Vec<u8>>()
    };
    for last in [1 << 32, 1 << 40, u64::MAX - 1] {
        let salt = Salt(0);
        let mut start = encode_start(1, salt, 1, std::iter::empty());
        start.truncate(HEADER_BYTES);
        let header = |kind, index| FrameHeader { kind, flags: 0, group: 1, term: 0, node: 0, index };
        header(Kind::GroupState, 0).encode_to(&mut start, salt, &state(0, last));
        header(Kind::CheckpointEnd, 1).encode_to(&mut start, salt, &[]);
        disk.set_content(&Path::new(DIRECTORY).join("00000000000000000001.log"), start);
        recover(&disk, Path::new(DIRECTORY));
        let refused = SharedLog::open(Arc::new(disk.clone()), options()).err().unwrap();
        assert!(refused.to_string().contains("malformed checkpoint"), "{refused}");
    }
}
