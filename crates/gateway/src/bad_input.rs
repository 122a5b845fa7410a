//! A way in for bytes that nobody vouches for, as property tests and the fuzz targets in `fuzz/` take it.

use crate::rebalance_request::RebalanceRequest;

/// The bytes as the body of a request for a rebalance; whether it was understood.
#[must_use]
pub fn rebalance_body(bytes: &[u8]) -> bool {
    RebalanceRequest::parse(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_body_brings_the_gateway_down(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = super::rebalance_body(&bytes);
        }

        #[test]
        fn no_almost_right_body_does(
            key in "(partitions|policy|maxMoves|budget|replicationLagThreshold|replicationTimeout|leaderWaitTimeout|[a-z]{1,8})",
            value in r#"(null|true|-?[0-9]{1,25}(\.[0-9]{1,9})?(e[0-9]{1,4})?|"P?T?[0-9]{0,25}[A-Za-z]{0,3}"|\[[0-9,]{0,12}\]|\[{1,200}|\{\})"#,
        ) {
            let _ = super::rebalance_body(format!("{{\"{key}\": {value}}}").as_bytes());
        }
    }
}
