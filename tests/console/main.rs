//! The console, used in a real browser on clusters of real processes.
//!
//! Tests are skipped, loudly, where Chromium is not installed, unless `EVENKEEL_REQUIRE_CHROMIUM` is set. With
//! `EVENKEEL_SCREENSHOTS=docs/images` they take the pictures of the documents.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod accessibility;
mod authentication;
mod chromium;
#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the stories in tests/cluster use all of it")]
mod harness;
mod rebalancing;
mod size;

use chromium::Page;

/// That nothing went wrong in the page, and that it asked nobody but its gateway.
fn assert_clean(page: &Page, origin: &str, expected: impl Fn(&str) -> bool) {
    let errors = page.errors(expected);
    assert!(errors.is_empty(), "{errors:#?}");
    let requests = page.requests();
    let elsewhere: Vec<&String> =
        requests.iter().filter(|url| !url.starts_with(origin) && *url != "about:blank").collect();
    assert!(!requests.is_empty() && elsewhere.is_empty(), "{elsewhere:?} of {}", requests.len());
}
