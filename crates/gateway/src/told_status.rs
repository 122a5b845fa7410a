//! What a broker told of itself, put together from the parts that it pushed.

use std::sync::Arc;

use evenkeel_protocol::internal::v1::{BrokerStatus, ReplicaStatus};

/// A broker's status; a copy shares its replicas, of which there may be thousands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToldStatus {
    /// All but the replicas.
    pub head: BrokerStatus,
    /// In order of partition.
    pub replicas: Vec<Arc<ReplicaStatus>>,
}

impl From<BrokerStatus> for ToldStatus {
    fn from(mut head: BrokerStatus) -> Self {
        let replicas = std::mem::take(&mut head.replicas).into_iter().map(Arc::new).collect();
        Self { head, replicas }
    }
}

impl ToldStatus {
    /// Takes news in: all of a status, or only the replicas that are different.
    pub fn update(&mut self, news: BrokerStatus) {
        let partial = news.partial;
        let news = Self::from(news);
        self.head = BrokerStatus { partial: false, ..news.head };
        if !partial {
            self.replicas = news.replicas;
            return;
        }
        for replica in news.replicas {
            match self.replicas.binary_search_by_key(&replica.partition_id, |known| known.partition_id) {
                Ok(at) => self.replicas[at] = replica,
                Err(at) => self.replicas.insert(at, replica),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_partial_status_leaves_out_is_as_it_was() {
        let replica = |partition_id, term| ReplicaStatus { partition_id, term, ..Default::default() };
        let mut told = ToldStatus::from(BrokerStatus {
            replicas: vec![replica(0, 1), replica(3, 1), replica(7, 1)],
            ..Default::default()
        });
        told.update(BrokerStatus {
            replicas: vec![replica(7, 2), replica(5, 1)],
            partial: true,
            draining: true,
            ..Default::default()
        });
        let expected = [replica(0, 1), replica(3, 1), replica(5, 1), replica(7, 2)].map(Arc::new);
        assert_eq!(told.replicas, expected);
        assert!(told.head.draining && !told.head.partial);
        let whole = BrokerStatus { replicas: vec![replica(9, 1)], ..Default::default() };
        told.update(whole.clone());
        assert_eq!(told, whole.into());
    }
}
