//! For those who do not use a mouse, or do not see the page.

use serde_json::Value;

use crate::assert_clean;
use crate::chromium::{Page, installed};
use crate::harness::{Cluster, Spec};

/// More than there is to stop at on a small cluster's pages.
const TABS_MAX: usize = 80;

/// What somebody can act on, or jump to: each has to say what it is.
const NAMED_ROLES: [&str; 12] = [
    "button",
    "link",
    "textbox",
    "spinbutton",
    "combobox",
    "checkbox",
    "dialog",
    "region",
    "progressbar",
    "table",
    "navigation",
    "img",
];

/// Text whose contrast with what is behind it is below WCAG's 4.5, but of what is disabled or hidden.
const FAINT: &str = r##"(() => {
    const parse = (text) => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = text;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3])).concat(1);
    const behind = (element) => {
        if (!element) return parse("#fff");
        const own = parse(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own : over(own, behind(element.parentElement));
    };
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.nodeValue.trim() || element.closest(".unseen, :disabled, noscript, option, [aria-hidden=true], .skip")) continue;
        if (!element.checkVisibility() || element.closest("[aria-busy=true]")) continue;
        const ground = behind(element);
        const [a, b] = [light(over(parse(getComputedStyle(element).color), ground)), light(ground)];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(`${walker.currentNode.nodeValue.trim()}: ${contrast.toFixed(2)} (${element.className || element.tagName})`);
    }
    return faint;
})()"##;

async fn assert_accessible(page: &Page, place: &str) {
    let tree = page.accessible().await;
    let text = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or_default().trim().to_owned();
    let named = tree.iter().filter(|node| NAMED_ROLES.contains(&text(node, "role").as_str()));
    let named: Vec<&Value> = named.collect();
    assert!(named.len() > 5, "{place}: {} controls", named.len());
    let nameless: Vec<&&Value> = named.iter().filter(|node| text(node, "name").is_empty()).collect();
    assert!(nameless.is_empty(), "{place}: without a name: {nameless:#?}");
    let headings =
        tree.iter().filter(|node| text(node, "role") == "heading" && !text(node, "name").is_empty());
    assert!(headings.count() > 0, "{place}: no heading");
    for scheme in ["light", "dark"] {
        page.scheme(scheme).await;
        let faint = page.value(FAINT).await;
        assert_eq!(faint, serde_json::json!([]), "{place}, {scheme}: text that is hard to read");
    }
    // A page of a telephone's width scrolls within its tables, not as a whole.
    page.size(360, 740).await;
    let wider =
        page.value("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
    assert_eq!(wider, 0, "{place}: wider than a telephone");
    if ["overview", "partitions"].contains(&place) {
        page.picture(&format!("console-phone-{place}")).await;
    }
    page.size(1280, 860).await;
    page.scheme("light").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_every_page_controls_have_names_text_stands_out_and_a_telephone_is_wide_enough() {
    if !installed() {
        return;
    }
    let mut cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    cluster.lose_and_return(1).await;
    let run = cluster.rebalance_api(0).start(&serde_json::json!({})).await;
    cluster.rebalance_api(0).finished(run).await;
    cluster.kill(2);
    cluster.wait_until_abandoned(2).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    let pages = [
        ("overview", "#/", "Broker 2 is away"),
        ("partitions", "#/partitions", "leads"),
        ("partition", "#/partitions/3", "Leaderships"),
        ("broker", "#/brokers/2", "Drain"),
        ("run", "#/runs/1", "Completed"),
        ("history", "#/history", "moved"),
        ("audit", "#/audit", "rebalance"),
        ("nothing", "#/nothing", "no such page"),
    ];
    for (place, hash, expected) in pages {
        page.go(&format!("{origin}{hash}")).await;
        page.until_contains("main", expected).await;
        assert_accessible(&page, place).await;
    }
    page.click("#rebalance").await;
    page.until_contains("#plan-sentence", "stay").await;
    assert_accessible(&page, "dialogue").await;
    assert_clean(&page, &origin, |_| false);
}

/// What has the focus, in words.
async fn focused(page: &Page) -> String {
    let told = "(() => { const e = document.activeElement; return `${e.tagName}#${e.id} ${e.textContent.slice(0, 40)}`; })()";
    page.value(told).await.as_str().unwrap().to_owned()
}

/// Tabs on until this has the focus, which must be seen on the way.
async fn tab_to(page: &Page, selector: &str) {
    let there = format!("document.activeElement?.matches({})", serde_json::json!(selector));
    for _ in 0..TABS_MAX {
        page.press("Tab").await;
        if page.value(&there).await == true {
            let ring = page.value("getComputedStyle(document.activeElement).outlineStyle").await;
            assert_eq!(ring, "solid", "{selector}: the focus is not seen");
            return;
        }
    }
    panic!("{selector} is not reached with Tab; at {}", focused(page).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_takes_no_mouse() {
    if !installed() {
        return;
    }
    let cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    cluster.give(1, 1).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.go(&origin).await;
    page.until_contains("#verdict", "1 leader of 3").await;
    page.press("Tab").await;
    assert!(focused(&page).await.contains("Skip to content"), "{}", focused(&page).await);
    page.press("Enter").await;
    assert!(focused(&page).await.starts_with("MAIN"), "{}", focused(&page).await);

    tab_to(&page, "#compare").await;
    page.press("Enter").await;
    // The page is drawn anew around it.
    page.until_contains("section[aria-labelledby=loads]", "would move 1 partition").await;

    page.go(&cluster.api("/#/partitions")).await;
    page.until_true("document.activeElement?.tagName === 'H1'").await;
    page.go(&origin).await;
    page.until_contains("#verdict", "1 leader of 3").await;
    page.value("document.activeElement.blur()").await;
    tab_to(&page, "#rebalance").await;
    page.press("Enter").await;
    page.until_contains("#plan-sentence", "1 partition would move").await;
    // The focus stays in the dialogue.
    for _ in 0..12 {
        page.press("Tab").await;
        let inside =
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null";
        assert_eq!(page.value(inside).await, true, "{}", focused(&page).await);
    }
    page.press("Escape").await;
    page.until_true("!document.querySelector('dialog') && document.activeElement.id === 'rebalance'").await;

    page.press("Enter").await;
    page.until_true("document.querySelector('#start')?.disabled === false").await;
    tab_to(&page, "#start").await;
    page.press("Enter").await;
    page.until("#run-state", "its end", |text| text == "Completed: 1 moved.").await;
    page.until_contains("#announcer", "Completed").await;
    cluster.wait_until_balanced().await;
    assert_clean(&page, &origin, |_| false);
}
