//! Text as the configuration file of a broker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

use evenkeel_broker::Options;
use evenkeel_settings::{flags, load};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("broker.toml");
    std::fs::write(&path, bytes).expect("a file");
    let none = clap::Command::new("broker").args(flags::<Options>()).get_matches_from(["broker"]);
    if let Ok(options) = load::<Options>(Some(&path), [], &none) {
        let _ = options.validate();
    }
});
