//! Pages of records in key order over all partitions: asks every partition for its next few, and merges.
//!
//! A page ends before the first key that some partition might still precede, so no key is ever skipped. Pages
//! are not one snapshot: a write between two pages may show in the later one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::{BufMut, Bytes, BytesMut};
use evenkeel_protocol::PartitionId;
use evenkeel_protocol::internal::v1::{BrokerListRequest, Page};
use evenkeel_protocol::v1::{Consistency, ListRequest, ListResponse, Record};
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use crate::refusals::Refusal;
use crate::writes::Router;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;
/// Keeps a page below the 4 MiB that clients accept by default; one larger record still passes alone.
const PAGE_BYTES_MAX: usize = 2 << 20;
/// Even among many partitions each returns a useful number of records.
const PARTITION_BYTES_MIN: usize = 64 << 10;
/// Partitions asked at once.
const FAN_OUT_MAX: usize = 32;
/// First byte of a page token: what follows is the last key of the page before.
const TOKEN_VERSION: u8 = 1;

/// One page.
pub(crate) async fn page(
    router: &Router,
    request: ListRequest,
    partitions_count: u32,
    deadline: Instant,
) -> Result<ListResponse, Refusal> {
    let partitions = match request.partition_id {
        0 => (1..=partitions_count).map(PartitionId).collect::<Vec<_>>(),
        one if one <= partitions_count => vec![PartitionId(one)],
        partition => return Err(Refusal::UnknownPartition { partition, partitions_count }),
    };
    let page_size = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(given) => given.min(PAGE_SIZE_MAX),
        Err(_) => {
            let problem = format!("page_size = {} is negative; give 1 to {PAGE_SIZE_MAX}", request.page_size);
            return Err(Refusal::invalid("BAD_PAGE_SIZE", "page_size", problem));
        }
    };
    let after_key = read_token(&request.page_token, &request.prefix)?;
    let stale = request.consistency() == Consistency::Stale;
    let bytes_max = (PAGE_BYTES_MAX / partitions.len()).max(PARTITION_BYTES_MIN);
    let ask = BrokerListRequest {
        partition_id: 0,
        prefix: request.prefix,
        after_key,
        limit: u32::try_from(page_size).unwrap_or(u32::MAX),
        stale,
        bytes_max: bytes_max as u64,
    };
    let pages: Vec<Page> = futures::stream::iter(partitions)
        .map(|partition| {
            let ask = BrokerListRequest { partition_id: partition.0, ..ask.clone() };
            async move {
                let call = router.read(partition, stale, deadline, |broker| {
                    let ask = ask.clone();
                    async move { broker.list(ask).await }
                });
                let page = call.await?;
                if page.more && page.records.is_empty() {
                    let detail = format!("partition {partition} has more records but returned none");
                    return Err(Refusal::BrokerMisbehaved { detail });
                }
                Ok(page)
            }
        })
        .buffered(FAN_OUT_MAX)
        .try_collect()
        .await?;
    Ok(merge(pages, page_size, PAGE_BYTES_MAX))
}

/// Merges pages that are each in key order into the longest page that surely has no gap.
fn merge(pages: Vec<Page>, page_size: usize, bytes_max: usize) -> ListResponse {
    let mut cursors: Vec<(std::vec::IntoIter<Record>, bool)> =
        pages.into_iter().map(|page| (page.records.into_iter(), page.more)).collect();
    let mut heads: Vec<Option<Record>> = cursors.iter_mut().map(|(records, _)| records.next()).collect();
    let mut smallest: BinaryHeap<Reverse<(Bytes, usize)>> = heads
        .iter()
        .enumerate()
        .filter_map(|(i, head)| head.as_ref().map(|record| Reverse((record.key.clone(), i))))
        .collect();
    let mut merged: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    while let Some(Reverse((_, i))) = smallest.pop() {
        let Some(record) = heads[i].take() else { continue };
        let size = record.key.len() + record.value.len();
        if merged.len() == page_size || (!merged.is_empty() && bytes + size > bytes_max) {
            more = true;
            break;
        }
        bytes += size;
        merged.push(record);
        match cursors[i].0.next() {
            Some(next) => {
                smallest.push(Reverse((next.key.clone(), i)));
                heads[i] = Some(next);
            }
            // What this partition has next may precede every other head.
            None if cursors[i].1 => {
                more = true;
                break;
            }
            None => {}
        }
    }
    let next_page_token = match merged.last() {
        Some(last) if more => token_after(&last.key),
        _ => Bytes::new(),
    };
    ListResponse { records: merged, next_page_token }
}

fn token_after(key: &[u8]) -> Bytes {
    let mut token = BytesMut::with_capacity(key.len() + 1);
    token.put_u8(TOKEN_VERSION);
    token.put_slice(key);
    token.freeze()
}

fn read_token(token: &Bytes, prefix: &[u8]) -> Result<Bytes, Refusal> {
    match token.first() {
        None => Ok(Bytes::new()),
        Some(&TOKEN_VERSION) if token.len() > 1 && token[1..].starts_with(prefix) => Ok(token.slice(1..)),
        Some(_) => {
            let problem =
                "page_token is not the next_page_token of a page with this prefix; begin with an empty one";
            Err(Refusal::invalid("BAD_PAGE_TOKEN", "page_token", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn record(key: &str, value_bytes: usize) -> Record {
        Record {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from(vec![0; value_bytes]),
            ..Record::default()
        }
    }

    fn partition_page(keys: &[&str], more: bool) -> Page {
        Page { records: keys.iter().map(|key| record(key, 0)).collect(), more }
    }

    fn keys(response: &ListResponse) -> Vec<&str> {
        response.records.iter().map(|record| std::str::from_utf8(&record.key).unwrap()).collect()
    }

    #[test]
    fn pages_merge_in_key_order_and_end_where_a_partition_may_have_an_earlier_key() {
        let all =
            merge(vec![partition_page(&["b", "d"], false), partition_page(&["a", "c"], false)], 10, 1000);
        assert_eq!((keys(&all), all.next_page_token.is_empty()), (vec!["a", "b", "c", "d"], true));

        let cut = merge(vec![partition_page(&["b"], true), partition_page(&["a", "c"], false)], 10, 1000);
        assert_eq!((keys(&cut), &cut.next_page_token[..]), (vec!["a", "b"], &b"\x01b"[..]));
    }

    #[test]
    fn a_full_page_has_a_token_only_when_something_follows() {
        let exact = merge(vec![partition_page(&["a", "b"], false)], 2, 1000);
        assert!(exact.next_page_token.is_empty());
        let full = merge(vec![partition_page(&["a", "b"], false)], 1, 1000);
        assert_eq!((keys(&full), &full.next_page_token[..]), (vec!["a"], &b"\x01a"[..]));
    }

    #[test]
    fn a_page_is_bounded_by_bytes_but_holds_at_least_one_record() {
        let page = Page { records: vec![record("a", 50), record("b", 1), record("c", 1)], more: false };
        assert_eq!(keys(&merge(vec![page.clone()], 10, 10)), ["a"]);
        assert_eq!(keys(&merge(vec![page], 10, 53)), ["a", "b"]);
    }

    #[test]
    fn a_foreign_page_token_is_refused() {
        assert_eq!(read_token(&Bytes::new(), b"x"), Ok(Bytes::new()));
        assert_eq!(read_token(&token_after(b"xa"), b"x"), Ok(Bytes::from_static(b"xa")));
        for bad in [&b"\x02xa"[..], b"\x01", b"\x01other"] {
            assert!(read_token(&Bytes::copy_from_slice(bad), b"x").is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Paging through any distribution of keys yields all of them, once, in order.
        #[test]
        fn paging_visits_every_key_once_in_order(
            partitions in prop::collection::vec(prop::collection::btree_set("[a-d]{1,3}", 0..12), 1..5),
            page_size in 1usize..6,
            broker_limit in 1usize..6,
        ) {
            let mut seen_keys = BTreeSet::new();
            let partitions: Vec<Vec<String>> = partitions
                .into_iter()
                .map(|keys| keys.into_iter().filter(|key| seen_keys.insert(key.clone())).collect())
                .collect();
            let mut visited = Vec::new();
            let mut after = String::new();
            loop {
                let pages = partitions
                    .iter()
                    .map(|all| {
                        let rest: Vec<&str> =
                            all.iter().filter(|key| **key > after).map(String::as_str).collect();
                        let limit = broker_limit.min(rest.len());
                        partition_page(&rest[..limit], rest.len() > limit)
                    })
                    .collect();
                let response = merge(pages, page_size, 1 << 20);
                visited.extend(keys(&response).into_iter().map(str::to_owned));
                if response.next_page_token.is_empty() {
                    break;
                }
                after = visited.last().unwrap().clone();
            }
            prop_assert_eq!(visited, seen_keys.into_iter().collect::<Vec<_>>());
        }
    }
}
