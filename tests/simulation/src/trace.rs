//! What happened in a run, in order: shown when it failed, hashed to compare two runs of a seed.

use std::collections::VecDeque;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

/// Lines kept for a failure.
const LINES_MAX: usize = 200;

pub struct Trace {
    hash: Xxh3,
    last: VecDeque<String>,
    count: u64,
    /// Whether to print lines as they come.
    pub loud: bool,
}

impl Trace {
    pub fn new(loud: bool) -> Self {
        Self { hash: Xxh3::new(), last: VecDeque::new(), count: 0, loud }
    }

    /// Adds a line.
    pub fn note(&mut self, at: Duration, what: &str) {
        let line = format!("{:>9.3} {what}", at.as_secs_f64());
        self.hash.update(line.as_bytes());
        self.count += 1;
        if self.loud {
            println!("{line}");
        }
        if self.last.len() == LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
