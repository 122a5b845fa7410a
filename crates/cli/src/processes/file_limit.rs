//! How many files and connections this process may have open: as many as the system lets it.
//!
//! Login shells and service managers start programs with a low soft limit, for old ones that cannot deal with more. A
//! gateway with ten thousand clients needs more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one; what is allowed now, `None` for as many as the system has.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // Without it the process still works, for fewer.
        Err(_) => current,
    }
}
