//! The broker configuration in `deploy/` works as it stands.
#![allow(clippy::unwrap_used)]

use evenkeel_broker::Options;

#[test]
fn the_sample_configuration_is_valid_for_each_of_its_three_brokers() {
    let text = include_str!("../../../deploy/broker.toml");
    for node in 0..3 {
        let mut options: Options = toml::from_str(text).unwrap();
        options.cluster.node_id = node;
        let validated = options.validate().unwrap();
        assert_eq!((validated.node.0, validated.brokers.len()), (node, 3));
    }
}
