//! A cluster that asks who calls.

use crate::assert_clean;
use crate::chromium::{Page, installed};
use crate::harness::{ADMIN, Cluster, READER, Secured, Spec};

async fn sign_in(page: &Page, token: &str) {
    page.until_contains("main", "Sign in").await;
    page.until_true("document.activeElement?.id === 'token'").await;
    page.type_text(token).await;
    page.press("Enter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_kept_for_the_tab_and_sent_to_nobody_else() {
    if !installed() {
        return;
    }
    let secured = Secured::new().await;
    let cluster = Cluster::start(Spec::new(1, 3).secured(&secured)).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.go(&origin).await;
    sign_in(&page, "not-a-token").await;
    page.until_contains("[role=alert]", "token").await;
    page.picture("console-sign-in").await;

    // A reader looks, and may not act.
    sign_in(&page, &secured.token_text(READER)).await;
    page.until_contains("#verdict", "Healthy").await;
    page.click("#rebalance").await;
    page.until_contains("dialog [role=alert]", "operate").await;
    page.press("Escape").await;
    page.until_true("!document.querySelector('dialog')").await;
    page.click("#pages a[href='#/audit']").await;
    page.until_contains("main [role=alert]", "operate").await;

    page.click("#sign-out").await;
    sign_in(&page, &secured.token_text(ADMIN)).await;
    page.until_contains("main", "Audit").await;
    page.until_true("!document.querySelector('main [role=alert]')").await;
    page.go(&cluster.api("/#/brokers/0")).await;
    page.until_contains("main", "expires in").await;
    let kept = page.value("[sessionStorage.length, localStorage.length, document.cookie]").await;
    assert_eq!(kept, serde_json::json!([1, 0, ""]));
    // Refusals are what this story is about.
    assert_clean(&page, &origin, |url| url.starts_with(&origin));
    assert!(page.requests().iter().all(|url| !url.contains(&secured.token_text(ADMIN))));
}
