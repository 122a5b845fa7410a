//! Lets compactions take a quarter of a core while nothing waits for them.
//!
//! A compaction is some hundred milliseconds of pure computation. On a machine that is busy, with two cores say, that is
//! half of it: what arrived meanwhile waited, and went on waiting for the second or two that it took to work it off. So a
//! compaction rests after each step, through the filter that fjall shows every item to. It hurries once a memtable waits for
//! the thread, since writes wait when there are many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

/// Work between two rests.
const STEP: Duration = Duration::from_millis(2);
/// A rest is so many times as long as the step before it.
const REST_STEPS: u32 = 3;
/// Items between two looks at the clock.
const ITEMS_PER_LOOK: u32 = 64;

/// Makes the filters; all of them hurry together.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompactionPace {
    hurried: Arc<AtomicBool>,
}

impl CompactionPace {
    pub(crate) fn hurry(&self, hurried: bool) {
        self.hurried.store(hurried, Ordering::Relaxed);
    }
}

impl Factory for CompactionPace {
    fn name(&self) -> &str {
        "pace"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Paced { hurried: Arc::clone(&self.hurried), items: 0, step_began: Instant::now() })
    }
}

/// One compaction.
struct Paced {
    hurried: Arc<AtomicBool>,
    items: u32,
    step_began: Instant,
}

impl CompactionFilter for Paced {
    /// Keeps everything.
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        self.items = self.items.wrapping_add(1);
        if self.items.is_multiple_of(ITEMS_PER_LOOK) && !self.hurried.load(Ordering::Relaxed) {
            let worked = self.step_began.elapsed();
            if worked >= STEP {
                // A step that took long was preempted, and has rested in part.
                std::thread::sleep(worked.min(2 * STEP) * REST_STEPS);
                self.step_began = Instant::now();
            }
        }
        Ok(Verdict::Keep)
    }
}
