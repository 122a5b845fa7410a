//! A broker: the replicas of its partitions, who leads them, and how leadership is handed over.

pub mod distribution;
pub mod election;
pub mod options;
pub mod step_down;
