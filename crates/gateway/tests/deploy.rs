//! The gateway configuration in `deploy/` works as it stands.
#![allow(clippy::unwrap_used)]

use evenkeel_gateway::Options;

#[test]
fn the_sample_configuration_is_valid_and_names_three_brokers() {
    let options: Options = toml::from_str(include_str!("../../../deploy/gateway.toml")).unwrap();
    options.validate().unwrap();
    assert_eq!(options.contacts().unwrap().len(), 3);
}
