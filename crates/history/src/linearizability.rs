//! Looks for an order of one key's operations that respects time and explains every answer.
//!
//! Lowe's just-in-time linearization: calls and answers are walked in order of time with the set of all *configurations*
//! that could be true, a configuration being the register and which of the operations under way have taken effect. An
//! operation must have taken effect when its answer comes, so then every configuration is extended by effects of
//! operations under way until that one's is among them; those for which this is impossible are dropped. The history is
//! refused when none is left. Operations without an answer stay under way to the end.
//!
//! Four things keep the set small: operations that change nothing take effect as soon as they fit; of open operations
//! that are alike only the earliest is tried; who used more open operations than another to the same end is dropped; and
//! values that no read returned are one value.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;

use crate::operation::Operation;
use crate::register::{self, Register, Step, Told};
use crate::report;

/// Why a history is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("key {key}: no order of its operations explains this answer\n{report}")]
    NotLinearizable { key: String, report: String },
    #[error(
        "key {key}: {configurations} states of the search did not tell whether its operations are linearizable; \
         use more keys, or fewer clients for each"
    )]
    Undecided { key: String, configurations: usize },
}

/// What could be true at some time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Configuration {
    register: Register,
    /// Operations under way that have taken effect and will be answered, ascending.
    done: Vec<usize>,
    /// Open operations that have taken effect, ascending.
    used: Vec<usize>,
}

impl Configuration {
    fn with(mut self, operation: usize, step: &Step, register: Register) -> Self {
        let list = if step.told == Told::Nothing { &mut self.used } else { &mut self.done };
        if let Err(at) = list.binary_search(&operation) {
            list.insert(at, operation);
        }
        self.register = register;
        self
    }

    fn is_done(&self, operation: usize) -> bool {
        self.done.binary_search(&operation).is_ok() || self.used.binary_search(&operation).is_ok()
    }
}

/// Configurations of which none makes another needless: with the same register and the same effects still owed, whoever
/// has used fewer open operations can do everything that the other can.
#[derive(Debug, Clone, Default)]
struct Minimal(HashMap<(Register, Vec<usize>), Vec<Vec<usize>>>);

impl Minimal {
    /// Whether it was not needless.
    fn insert(&mut self, configuration: &Configuration) -> bool {
        let alike = self.0.entry((configuration.register, configuration.done.clone())).or_default();
        if alike.iter().any(|used| is_subset(used, &configuration.used)) {
            return false;
        }
        alike.retain(|used| !is_subset(&configuration.used, used));
        alike.push(configuration.used.clone());
        true
    }

    fn contains(&self, configuration: &Configuration) -> bool {
        let alike = self.0.get(&(configuration.register, configuration.done.clone()));
        alike.is_some_and(|alike| alike.contains(&configuration.used))
    }

    fn iter(&self) -> impl Iterator<Item = Configuration> {
        self.0.iter().flat_map(|((register, done), alike)| {
            alike.iter().map(|used| Configuration {
                register: *register,
                done: done.clone(),
                used: used.clone(),
            })
        })
    }
}

/// Of ascending numbers.
fn is_subset(some: &[usize], of: &[usize]) -> bool {
    let mut of = of.iter();
    some.iter().all(|number| of.by_ref().any(|other| other == number))
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            0 => write!(f, "no record, last position {}", self.position),
            version => write!(f, "version {version}, last position {}", self.position),
        }
    }
}

struct Search<'a> {
    steps: &'a [Option<Step>],
    under_way: BTreeSet<usize>,
    possible: Minimal,
    configurations: usize,
    configurations_max: usize,
}

#[derive(Debug)]
struct TooMany;

/// Judges the operations of one key, which began without a record.
pub(crate) fn check(operations: &[&Operation], configurations_max: usize) -> Result<(), Violation> {
    let key = || String::from_utf8_lossy(operations.first().map_or(&[], |o| &o.key)).into_owned();
    let steps = register::steps(operations);
    let mut search = Search {
        steps: &steps,
        under_way: BTreeSet::new(),
        possible: Minimal(HashMap::from([((Register::default(), Vec::new()), vec![Vec::new()])])),
        configurations: 0,
        configurations_max,
    };
    for (_, is_answer, operation) in events(operations, &steps) {
        if !is_answer {
            search.under_way.insert(operation);
            continue;
        }
        let before = search.possible.clone();
        match search.answered(operation) {
            Err(TooMany) => {
                return Err(Violation::Undecided { key: key(), configurations: search.configurations });
            }
            Ok(()) if search.possible.0.is_empty() => {
                let mut registers: Vec<_> =
                    before.0.keys().map(|(register, _)| register.to_string()).collect();
                registers.sort();
                registers.dedup();
                let report = report::around(operations, operation, &registers);
                return Err(Violation::NotLinearizable { key: key(), report });
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Calls and answers by time; at one time calls come first, so that such operations overlap.
fn events(operations: &[&Operation], steps: &[Option<Step>]) -> Vec<(u64, bool, usize)> {
    let mut events = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        if steps[index].is_none() {
            continue;
        }
        events.push((operation.called_at, false, index));
        if let Some(at) = operation.answered_at {
            events.push((at, true, index));
        }
    }
    events.sort_unstable();
    events
}

impl Search<'_> {
    /// Keeps what can be true now that `operation`, which was under way, is over.
    fn answered(&mut self, operation: usize) -> Result<(), TooMany> {
        let mut remaining = Minimal::default();
        let mut seen = Minimal::default();
        let mut open = VecDeque::new();
        for configuration in std::mem::take(&mut self.possible).iter() {
            let settled = self.settled(configuration);
            if seen.insert(&settled) {
                open.push_back(settled);
            }
        }
        // Few effects first, so that what makes others needless is found before them.
        while let Some(mut configuration) = open.pop_front() {
            if !seen.contains(&configuration) {
                continue;
            }
            if let Ok(at) = configuration.done.binary_search(&operation) {
                configuration.done.remove(at);
                remaining.insert(&configuration);
                continue;
            }
            for next in self.successors(&configuration) {
                if seen.insert(&next) {
                    self.configurations += 1;
                    open.push_back(next);
                }
            }
            if self.configurations > self.configurations_max {
                return Err(TooMany);
            }
        }
        self.under_way.remove(&operation);
        self.possible = remaining;
        Ok(())
    }

    /// One more effect, of any operation under way that fits.
    fn successors(&self, configuration: &Configuration) -> Vec<Configuration> {
        let mut tried = Vec::new();
        let mut successors = Vec::new();
        for &candidate in &self.under_way {
            let Some(step) = self.steps[candidate] else { continue };
            if configuration.is_done(candidate) {
                continue;
            }
            // Alike and without an answer: whichever comes first stands for all.
            if step.told == Told::Nothing {
                if tried.contains(&step) {
                    continue;
                }
                tried.push(step);
            }
            if let Some(register) = step.apply(configuration.register) {
                successors.push(self.settled(configuration.clone().with(candidate, &step, register)));
            }
        }
        successors
    }

    /// With the effect of everything that only looks and fits: that is never worse than having it later. An open
    /// operation that would change nothing now may change something later, so it stays under way.
    fn settled(&self, mut configuration: Configuration) -> Configuration {
        for &candidate in &self.under_way {
            let unchanged = Some(configuration.register);
            let Some(step) = self.steps[candidate].filter(|step| step.told != Told::Nothing) else {
                continue;
            };
            if step.apply(configuration.register) == unchanged && !configuration.is_done(candidate) {
                let register = configuration.register;
                configuration = configuration.with(candidate, &step, register);
            }
        }
        configuration
    }
}
