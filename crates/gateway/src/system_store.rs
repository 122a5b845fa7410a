//! The cluster's own state, kept in the system group: JSON values under a few keys, changed by compare-and-set.
//!
//! Any gateway may write any key at any time, so every change that depends on what was read says so with
//! [`Expect`]; who comes second gets [`SystemStoreError::Conflict`] and reads again. Reads are linearizable. A
//! write is repeated with the same request id until its outcome is known, so a conflict is never with oneself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evenkeel_protocol::SYSTEM_GROUP;
use evenkeel_protocol::internal::v1::Page;
use evenkeel_protocol::internal::v1::{BrokerGetRequest, BrokerListRequest};
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, Precondition, Record, batch_operation, precondition,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::refusals::Refusal;
use crate::writes::Router;

/// Whether ownership is paused, and since when: [`Ownership`].
pub(crate) const OWNERSHIP_KEY: &str = "ownership";

/// How long one access may take: an election of the system group fits in.
const ACCESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Records that one request for a list asks for.
const LIST_PAGE_RECORDS_MAX: u32 = 1_000;
const LIST_PAGE_BYTES_MAX: u64 = 2 << 20;
/// Records that a list may have: more would be a leak.
const LIST_RECORDS_MAX: usize = 100_000;
/// Times that a change is tried again because another gateway changed the same record.
const CHANGE_ATTEMPTS_MAX: u32 = 5;

/// Why the system group did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SystemStoreError {
    /// Nothing was written: the record was not what the change expected.
    #[error("{key} was changed by another gateway (its version is {current_version}); read it again")]
    Conflict {
        /// Of the record, 0 when there is none.
        current_version: u64,
        /// Which.
        key: String,
    },
    /// The group could not be reached in time; a write may or may not have taken effect.
    #[error("the system group: {0}")]
    Unavailable(Refusal),
    /// A record is not what this version writes.
    #[error("{key} in the system group is not readable ({problem}); run gateways of one version")]
    Unreadable {
        /// Which.
        key: String,
        /// What the parser said.
        problem: String,
    },
}

impl SystemStoreError {
    /// Whether another gateway was faster.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// What a record must be for a change to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Whatever is there.
    Anything,
    /// There is none.
    Absent,
    /// It has this version.
    Version(u64),
}

/// A value, and the version to expect when changing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) version: u64,
}

/// Changes that take effect together or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    operations: Vec<BatchOperation>,
    keys: Vec<String>,
}

impl Batch {
    /// Writes a record.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub(crate) fn put<T: Serialize>(
        &mut self,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<(), SystemStoreError> {
        let value = serde_json::to_vec(value).map_err(|error| unreadable(key, &error))?;
        let put = BatchPut {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.into(),
            precondition: precondition(expect),
        };
        self.push(key, batch_operation::Operation::Put(put));
        Ok(())
    }

    /// Removes a record.
    pub(crate) fn delete(&mut self, key: &str, expect: Expect) {
        let delete =
            BatchDelete { key: Bytes::copy_from_slice(key.as_bytes()), precondition: precondition(expect) };
        self.push(key, batch_operation::Operation::Delete(delete));
    }

    /// Adds all changes of another batch.
    pub(crate) fn append(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.keys.extend(other.keys);
    }

    fn push(&mut self, key: &str, operation: batch_operation::Operation) {
        self.operations.push(BatchOperation { operation: Some(operation) });
        self.keys.push(key.to_owned());
    }
}

fn precondition(expect: Expect) -> Option<Precondition> {
    let condition = match expect {
        Expect::Anything => return None,
        Expect::Absent => precondition::Condition::MustNotExist(true),
        Expect::Version(version) => precondition::Condition::VersionEquals(version),
    };
    Some(Precondition { condition: Some(condition) })
}

/// The way to the system group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SystemStore {
    router: Arc<Router>,
}

impl SystemStore {
    pub(crate) fn new(router: Arc<Router>) -> Self {
        Self { router }
    }

    /// A record, when there is one.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Versioned<T>>, SystemStoreError> {
        let ask = BrokerGetRequest {
            partition_id: SYSTEM_GROUP.0,
            key: Bytes::copy_from_slice(key.as_bytes()),
            stale: false,
        };
        let deadline = Instant::now() + ACCESS_TIMEOUT;
        let found = self.router.read(SYSTEM_GROUP, false, deadline, |broker| {
            let ask = ask.clone();
            async move { broker.get(ask).await }
        });
        let found = found.await.map_err(SystemStoreError::Unavailable)?;
        found.record.map(|record| read_record(&record).map(|(_, versioned)| versioned)).transpose()
    }

    /// Every record whose key begins with `prefix`, in order of key. Not one snapshot when it needs several pages.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, Versioned<T>)>, SystemStoreError> {
        self.list_after(prefix, "").await
    }

    /// Those among them whose key is greater than `after`.
    pub(crate) async fn list_after<T: DeserializeOwned>(
        &self,
        prefix: &str,
        after: &str,
    ) -> Result<Vec<(String, Versioned<T>)>, SystemStoreError> {
        let deadline = Instant::now() + ACCESS_TIMEOUT;
        let mut all = Vec::new();
        let mut after_key = Bytes::copy_from_slice(after.as_bytes());
        loop {
            let page = self.page(prefix, after_key, deadline).await.map_err(SystemStoreError::Unavailable)?;
            for record in &page.records {
                all.push(read_record(record)?);
            }
            match page.records.last() {
                Some(last) if page.more && all.len() < LIST_RECORDS_MAX => after_key = last.key.clone(),
                _ => return Ok(all),
            }
        }
    }

    async fn page(&self, prefix: &str, after_key: Bytes, deadline: Instant) -> Result<Page, Refusal> {
        let ask = BrokerListRequest {
            partition_id: SYSTEM_GROUP.0,
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            after_key,
            limit: LIST_PAGE_RECORDS_MAX,
            stale: false,
            bytes_max: LIST_PAGE_BYTES_MAX,
        };
        let page = self.router.read(SYSTEM_GROUP, false, deadline, |broker| {
            let ask = ask.clone();
            async move { broker.list(ask).await }
        });
        page.await
    }

    /// Writes a record if it is as expected; its new version.
    pub(crate) async fn put<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<u64, SystemStoreError> {
        let mut batch = Batch::default();
        batch.put(key, value, expect)?;
        Ok(self.commit(batch).await?.into_iter().next().unwrap_or_default())
    }

    /// Makes all changes or, when one record is not as expected, none. The records' new versions, 0 for a deleted.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Vec<u64>, SystemStoreError> {
        let deadline = Instant::now() + ACCESS_TIMEOUT;
        let Batch { operations, keys } = batch;
        match self.router.write(SYSTEM_GROUP, None, operations, deadline).await {
            Ok(applied) => Ok(applied.results.into_iter().map(|result| result.version).collect()),
            Err(Refusal::PreconditionFailed { operation, current_version }) => {
                let key = keys.get(operation as usize).cloned().unwrap_or_default();
                Err(SystemStoreError::Conflict { key, current_version })
            }
            Err(refusal) => Err(SystemStoreError::Unavailable(refusal)),
        }
    }

    /// Whether ownership is paused.
    pub(crate) async fn ownership(&self) -> Result<Ownership, SystemStoreError> {
        Ok(self.get(OWNERSHIP_KEY).await?.map(|stored| stored.value).unwrap_or_default())
    }

    /// Pauses or resumes ownership, durably; the state from now on. Asking for what is so already changes nothing.
    pub(crate) async fn set_ownership_paused(
        &self,
        paused: bool,
        by: &str,
        now: SystemTime,
    ) -> Result<Ownership, SystemStoreError> {
        let since = humantime::format_rfc3339_millis(now).to_string();
        let wanted = Ownership { paused, since: Some(since), by: Some(by.to_owned()) };
        let changed = self.change(OWNERSHIP_KEY, |stored: Option<&Ownership>| {
            stored.is_none_or(|stored| stored.paused != paused).then(|| wanted.clone())
        });
        Ok(changed.await?.unwrap_or_default())
    }

    /// Changes a record to what `to` makes of it, `None` to leave it as it is; what it is then.
    pub(crate) async fn change<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        to: impl Fn(Option<&T>) -> Option<T>,
    ) -> Result<Option<T>, SystemStoreError> {
        let mut attempt = 1;
        loop {
            let stored: Option<Versioned<T>> = self.get(key).await?;
            let expect = stored.as_ref().map_or(Expect::Absent, |stored| Expect::Version(stored.version));
            let stored = stored.map(|stored| stored.value);
            let Some(wanted) = to(stored.as_ref()) else { return Ok(stored) };
            match self.put(key, &wanted, expect).await {
                Ok(_) => return Ok(Some(wanted)),
                Err(error) if error.is_conflict() && attempt < CHANGE_ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether ownership may be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ownership {
    /// Nothing is rebalanced until resumed.
    pub(crate) paused: bool,
    /// RFC 3339; since when it is so, `None` when it was never changed.
    pub(crate) since: Option<String>,
    /// Who changed it.
    pub(crate) by: Option<String>,
}

fn read_record<T: DeserializeOwned>(record: &Record) -> Result<(String, Versioned<T>), SystemStoreError> {
    let key = String::from_utf8_lossy(&record.key).into_owned();
    let value = serde_json::from_slice(&record.value).map_err(|error| unreadable(&key, &error))?;
    Ok((key, Versioned { value, version: record.version }))
}

fn unreadable(key: &str, error: &serde_json::Error) -> SystemStoreError {
    SystemStoreError::Unreadable { key: key.to_owned(), problem: error.to_string() }
}
