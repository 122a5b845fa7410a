//! What people and programs are shown: tables, sentences, JSON, and how a command ends.

pub mod outcome;
pub mod record_output;
pub mod tables;
pub mod verdict;
