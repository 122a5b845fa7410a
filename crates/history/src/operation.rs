//! One operation of one client on one key.

/// What must hold for a conditional write to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    MustNotExist,
    VersionEquals(u64),
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A linearizable read. Stale reads promise too little to be judged here.
    Get,
    Put {
        value: Vec<u8>,
        condition: Option<Condition>,
    },
    Delete {
        condition: Option<Condition>,
    },
}

/// A record as a read showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub value: Vec<u8>,
    /// 1 for the first put of a key, one more with each later one; begins again after a delete.
    pub version: u64,
    /// Raft log index of the write that left it so; grows from write to write.
    pub position: u64,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a [`Request::Get`]; `None`: there is no such record.
    Read(Option<Stored>),
    /// To a [`Request::Put`] that took effect.
    Put { version: u64, position: u64 },
    /// To a [`Request::Delete`] that took effect, on nothing perhaps.
    Deleted { existed: bool, position: u64 },
    /// The condition did not hold; some interfaces tell the version that the record had, 0 for none.
    ConditionFailed { current_version: Option<u64> },
    /// Certain to have had no effect, now and later.
    NotDone,
    /// No answer, or one that leaves open whether there was an effect, or will be.
    Unknown,
}

/// A recorded operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; only shown to people.
    pub client: u64,
    pub key: Vec<u8>,
    pub request: Request,
    /// Before anything was sent.
    pub called_at: u64,
    pub answer: Answer,
    /// After the answer had come; `None` while [`Answer::Unknown`].
    pub answered_at: Option<u64>,
}
