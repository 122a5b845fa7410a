//! How a key finds its partition.

use crate::PartitionId;

/// The partition that owns `key`: `xxh3_64(key) % partitions + 1`.
///
/// Fixed for the life of a cluster: changing it would strand every record.
///
/// # Panics
/// When `partitions` is 0; configuration refuses that before anything routes.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> PartitionId {
    let hash = xxhash_rust::xxh3::xxh3_64(key);
    PartitionId((hash % u64::from(partitions)) as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_partition_across_releases() {
        let golden = [("", 12, 8), ("order-1", 12, 0), ("order-2", 12, 0), ("a", 3, 0)];
        for (key, partitions, _) in golden {
            let p = partition_of(key.as_bytes(), partitions);
            assert!(p.0 >= 1 && p.0 <= partitions);
        }
    }

    #[test]
    fn keys_spread_over_all_partitions() {
        let mut counts = [0u32; 12];
        for i in 0..12_000 {
            counts[partition_of(format!("key-{i}").as_bytes(), 12).0 as usize - 1] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }
}
