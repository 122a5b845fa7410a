//! Five bugs that a store of this kind can have, each asleep until it is woken by name.
//!
//! Compiled only with the feature `known-bugs`, which only the simulation asks for: it proves that its checks would
//! notice.

use std::sync::atomic::{AtomicU8, Ordering};

/// The bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KnownBug {
    /// The committer answers before it has synced.
    AcknowledgeBeforeSync = 1,
    /// The state machine does not look whether it has answered a request already.
    SkipRequestIds,
    /// A replica that takes itself for the leader reads without asking whether its lease still holds.
    ServeExpiredLease,
    /// A restarted broker does not know whom it voted for.
    ForgetVote,
    /// A target that lags is told to stand all the same, and then the transfer counts as done.
    ClaimTransfer,
}

impl KnownBug {
    /// All of them, with the names they are woken by.
    pub const ALL: [(Self, &str); 5] = [
        (Self::AcknowledgeBeforeSync, "acknowledge-before-sync"),
        (Self::SkipRequestIds, "skip-request-ids"),
        (Self::ServeExpiredLease, "serve-expired-lease"),
        (Self::ForgetVote, "forget-vote"),
        (Self::ClaimTransfer, "claim-transfer"),
    ];

    /// From now on this process has the bug.
    pub fn wake(self) {
        AWAKE.store(self as u8, Ordering::SeqCst);
    }

    /// Whether this process has the bug.
    pub fn is_awake(self) -> bool {
        AWAKE.load(Ordering::Relaxed) == self as u8
    }
}

static AWAKE: AtomicU8 = AtomicU8::new(0);
