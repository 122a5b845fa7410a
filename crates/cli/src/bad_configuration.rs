//! Whatever is set for whichever keys, a process says what is wrong with it and does not fall over.

use clap::Command;
use evenkeel_settings::{Settings, flags, load};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

const VALUES: &str = r#"-?[0-9]{1,20}|[0-9]{1,3}\.[0-9]{1,3}|-?inf|nan|true|[0-9]{0,20}(ns|ms|s|d|y)|[^\pC]{0,9}|[0-2]=[a-z:0-9\[\]]{0,9}(,[0-2]=h:[0-9]{1,6}){0,2}|\[\[\]\]|\[\{\}\]"#;

/// Sets a few keys as environment variables do, and has what comes of it judged.
fn sets<T: Settings>(judge: impl Fn(&T)) {
    let keys: Vec<&str> = T::DOCS.iter().map(|(key, _)| *key).collect();
    let chosen = proptest::collection::vec((select(keys), VALUES), 1..4);
    let no_flags = Command::new("process").args(flags::<T>()).get_matches_from(["process"]);
    let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&chosen, |chosen| {
        let variable = |key: &str| format!("EVENKEEL_{}", key.replace('.', "_").to_uppercase());
        let set = chosen.into_iter().map(|(key, value)| (variable(key), value));
        if let Ok(options) = load::<T>(None, set, &no_flags) {
            judge(&options);
        }
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn no_values_of_any_keys_bring_a_broker_down() {
    sets::<evenkeel_broker::Options>(|options| drop(options.validate()));
}

#[test]
fn no_values_of_any_keys_bring_a_gateway_down() {
    sets::<evenkeel_gateway::Options>(|options| drop(options.validate()));
}
