//! What people and programs are shown: tables, sentences, documents, and how a command ends.

pub mod format;
pub mod live;
pub mod outcome;
pub mod record_output;
pub mod tables;
pub mod verdict;
