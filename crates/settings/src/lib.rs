//! Layered configuration, one for all processes: defaults < TOML file < environment < flags.
//!
//! The keys are not listed anywhere twice: serializing a type's default gives every key and the kind of its
//! value, and from those follow the flags (`--cluster-node-id`), the environment variables
//! (`EVENKEEL_CLUSTER_NODE_ID`) and the check for unknown keys. What a value means stays with the type: this
//! crate only guarantees that it has the right kind, and says where a wrong one came from.

mod error;
mod file;
mod flags;
mod keys;
mod load;
mod render;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{Origin, SettingsError};
pub use flags::{SettingsArgs, flags};
pub use keys::{DocsError, check_docs};
pub use load::{environment, load};
pub use render::render;

/// A type whose fields can be set in a file, by environment variables and by flags.
///
/// Its default must serialize every field: an `Option` that is `None` would have no key.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// Every key as a dotted path with one line that explains it, in the order to show them.
    const DOCS: &'static [(&'static str, &'static str)];

    /// Keys whose values are lists of tables. As flags and variables they are written as TOML.
    const TABLE_LISTS: &'static [&'static str] = &[];
}
