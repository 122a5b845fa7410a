// Which page is shown, and what is around it.

import { onUnauthorized, token } from "./api.js";
import * as audit from "./history.js";
import * as broker from "./broker.js";
import { cluster, start, stop, subscribe } from "./cluster.js";
import * as matrix from "./matrix.js";
import * as overview from "./overview.js";
import { announce, fill, h } from "./page.js";
import * as partition from "./partition.js";
import { openRebalance } from "./rebalance.js";
import * as run from "./run.js";
import { signIn } from "./sign_in.js";

// A page is show(element, ...captured) → {title, update(what, partitions), close()}; the last two may be missing.
const PAGES = [
  [/^#?\/?$/, overview.show],
  [/^#\/partitions$/, matrix.show],
  [/^#\/partitions\/(\d+)$/, partition.show],
  [/^#\/brokers\/(\d+)$/, broker.show],
  [/^#\/runs\/(\d+)$/, run.show],
  [/^#\/history$/, audit.showHistory],
  [/^#\/audit$/, audit.showAudit],
];

const content = document.getElementById("content");
const connection = document.getElementById("connection");
const signOut = document.getElementById("sign-out");
const rebalance = document.getElementById("rebalance");
let page = null;
let signingIn = false;
let spoken = null;

function missing(element) {
  fill(element, h("h1", { tabindex: "-1" }, "There is no such page"), h("p", null, h("a", { href: "#/" }, "Go to the overview")));
  return { title: "No such page" };
}

function navigate(byHand = true) {
  const hash = location.hash;
  if (hash === "#content") return;
  page?.close?.();
  const found = PAGES.map(([pattern, show]) => [hash.match(pattern), show]).find(([match]) => match);
  content.replaceChildren();
  page = found ? found[1](content, ...found[0].slice(1)) : missing(content);
  document.title = `${page.title} · Evenkeel`;
  for (const link of document.querySelectorAll("#pages a")) {
    const here = link.getAttribute("href") === (hash || "#/") || (link.hash === "#/partitions" && /^#\/partitions\//.test(hash)) || (link.hash === "#/history" && /^#\/runs\//.test(hash));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (byHand) {
    window.scrollTo(0, 0);
    (content.querySelector("h1") ?? content).focus({ preventScroll: true });
  }
}

function connected(text, error) {
  connection.textContent = text;
  connection.className = `connection ${text === "live" ? "live" : "broken"}`;
  connection.title = error?.message ?? "";
}

function begin() {
  signOut.hidden = token.get() === null;
  rebalance.hidden = false;
  start(connected);
  navigate(false);
}

onUnauthorized((problem) => {
  if (signingIn) return;
  signingIn = true;
  stop();
  page?.close?.();
  page = null;
  connected("signed out");
  token.clear();
  signOut.hidden = true;
  rebalance.hidden = true;
  signIn(content, problem, (text) => {
    signingIn = false;
    token.set(text);
    begin();
  });
});

signOut.onclick = () => {
  token.clear();
  location.reload();
};
rebalance.onclick = () => openRebalance();
document.getElementById("skip").onclick = (event) => {
  event.preventDefault();
  content.focus();
};
addEventListener("hashchange", () => navigate());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && page?.update?.("operations"));
subscribe((what, partitions) => {
  page?.update?.(what, partitions);
  if (cluster.view === null) return;
  const said = overview.spokenVerdict();
  if (spoken !== null && spoken !== said) announce(said);
  spoken = said;
});
begin();
