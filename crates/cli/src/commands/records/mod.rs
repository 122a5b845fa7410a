//! Reading and writing records.

pub mod delete;
pub mod get;
pub mod import;
pub mod json_lines;
pub mod list;
pub mod put;
pub mod watch;
