//! What the followers of a new leader had when they voted for it, so that it need not search for that.
//!
//! openraft's new leader knows nothing of its followers' logs, and finds out where they agree by a binary search from the
//! beginning of the log: a dozen round trips before it commits its first entry, 25 ms of a busy cluster's every change
//! of leader. But each voter has told in its answer where its log ends. When the leader's log has that very entry, both
//! logs are the same up to it, by Raft's log matching; so probes at or before it are answered here, without asking.
//!
//! # Why that is safe
//! - *It is on the voter's disk*: a voter tells it only when it is ([`crate::raft_service`]).
//! - *It stays there*: whoever votes in a term takes no entry from leaders of earlier terms any more, and a later one
//!   deposes this leader with the voter's next answer.
//! - *Nothing is committed by it*: entries that a voter held are of earlier terms; a commit takes a majority that
//!   holds one of the leader's own, for which followers are asked.
//! - *It proves nothing about time*: an answer says no more than that the entry before the probe matches, and openraft
//!   takes no lease from that.
//! - A follower that has lost its log after all contradicts the next request, and is searched from then on
//!   ([`VoterLogs::forget`]).

use std::collections::HashMap;
use std::sync::Arc;

use evenkeel_protocol::NodeId;
use evenkeel_raft_storage::types::raft::{LogId, Vote};
use parking_lot::Mutex;

/// Of one partition's newest candidacy on this broker, by voter. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct VoterLogs(Arc<Mutex<HashMap<NodeId, VoterLog>>>);

#[derive(Debug)]
struct VoterLog {
    /// What it voted for.
    vote: Vote,
    last: LogId,
}

impl VoterLogs {
    /// `voter` granted `vote`, and its log, all of it durable, ended with `last`.
    pub fn note(&self, voter: NodeId, vote: Vote, last: LogId) {
        self.0.lock().insert(voter, VoterLog { vote, last });
    }

    pub fn forget(&self, voter: NodeId) {
        self.0.lock().remove(&voter);
    }

    /// Whether `follower` is known to hold the leader's entry `entry`, since it voted for the leadership of `vote` and its log
    /// ended at or after it with an entry that the leader has too; `leader_log` tells the leader's entry at an index.
    pub fn holds(
        &self,
        follower: NodeId,
        vote: &Vote,
        entry: LogId,
        leader_log: impl FnOnce(u64) -> Option<LogId>,
    ) -> bool {
        let logs = self.0.lock();
        let Some(VoterLog { vote: voted, last }) = logs.get(&follower) else { return false };
        voted.leader_id == vote.leader_id
            && entry.index <= last.index
            && leader_log(last.index) == Some(*last)
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_raft_storage::types::raft::CommittedLeaderId;

    use super::*;

    fn entry(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term, node_id: 1 }, index)
    }

    /// Entries 1 to 20 of term 3, then 21 to 30 of term 5.
    fn leader_log(index: u64) -> Option<LogId> {
        (1..=30).contains(&index).then(|| entry(if index <= 20 { 3 } else { 5 }, index))
    }

    #[test]
    fn a_voter_holds_what_lies_before_an_entry_that_both_have() {
        let (voter, vote) = (NodeId(2), Vote::new(6, 1));
        let logs = VoterLogs::default();
        let holds = |entry, vote: &Vote| logs.holds(voter, vote, entry, leader_log);
        assert!(!holds(entry(3, 1), &vote), "nothing is known of who has not voted");
        logs.note(voter, vote, entry(5, 25));
        assert!(holds(entry(3, 1), &vote) && holds(entry(5, 25), &vote));
        assert!(holds(entry(3, 1), &Vote::new_committed(6, 1)), "the leadership that the vote was for");
        assert!(!holds(entry(5, 26), &vote), "the voter's log ended before");
        assert!(!holds(entry(3, 1), &Vote::new_committed(7, 1)), "another leadership");
        assert!(!logs.holds(NodeId(3), &vote, entry(3, 1), leader_log), "another follower");
    }

    #[test]
    fn nothing_is_concluded_from_an_entry_that_the_leader_lacks() {
        let (voter, vote) = (NodeId(2), Vote::new(6, 1));
        let logs = VoterLogs::default();
        logs.note(voter, vote, entry(4, 25));
        assert!(
            !logs.holds(voter, &vote, entry(3, 1), leader_log),
            "of another term: their logs parted before"
        );
        logs.note(voter, vote, entry(5, 25));
        assert!(!logs.holds(voter, &vote, entry(3, 1), |_| None), "purged");
        logs.forget(voter);
        assert!(!logs.holds(voter, &vote, entry(3, 1), leader_log));
    }
}
