// Earlier runs, and what operators did.

import { get } from "./api.js";
import { fill, h, table, trouble } from "./page.js";
import { clock, count, duration, outcomeWord } from "./words.js";

const ENTRIES_SHOWN = 200;

// A page that asks once, and again when a run may have ended.
function asked(content, title, path, shown) {
  let closed = false;
  let seen = null;
  const ask = async () => {
    let part;
    try {
      part = shown(await get(path));
    } catch (error) {
      part = trouble(error);
    }
    if (!closed) fill(content, h("h1", { tabindex: "-1" }, title), part);
  };
  fill(content, h("h1", { tabindex: "-1" }, title), h("p", { class: "loading" }, "Asking…"));
  ask();
  return {
    title,
    update: (what) => {
      if (what !== "operations" || seen === Math.floor(Date.now() / 2_000)) return;
      seen = Math.floor(Date.now() / 2_000);
      ask();
    },
    close: () => (closed = true),
  };
}

export function showHistory(content) {
  return asked(content, "Rebalances", "/cluster/v2/rebalance/history", ({ rebalances }) => {
    const tones = { COMPLETED: "good", CANCELLED: "warn", FAILED: "bad" };
    const results = (run) => Object.entries(run.results ?? {}).map(([result, n]) => `${count(n)} ${outcomeWord(result)}`).join(", ") || "–";
    return table("Rebalances, newest first", [{ title: "Run", n: true }, "Result", "Started", "Took", "Goal", "Partitions", "Plan"],
      rebalances.map((run) => [h("a", { href: `#/runs/${run.rebalanceId}` }, `${run.rebalanceId}`), h("span", { class: `state ${tones[run.result] ?? "note"}` }, run.result?.toLowerCase() ?? "under way"), clock(run.startedAt),
        run.finishedAt ? duration(new Date(run.finishedAt) - new Date(run.startedAt)) : "–", run.policy, results(run), h("code", null, run.plan)]),
      "No rebalance was ever started.");
  });
}

export function showAudit(content) {
  return asked(content, "Audit", `/cluster/v2/audit?limit=${ENTRIES_SHOWN}`, ({ entries }) => [
    entries.length === ENTRIES_SHOWN && h("p", { class: "hint" }, `The newest ${count(ENTRIES_SHOWN)}; GET /cluster/v2/audit?limit=1000 has more.`),
    table("What operators did, newest first", [{ title: "No.", n: true }, "When", "Who", "From", "What", "Outcome", "Detail"],
      entries.map((entry) => [`${entry.number}`, clock(entry.at), entry.who, h("code", null, entry.source ?? "–"), [entry.action, entry.target && ` ${entry.target}`],
        [entry.outcome, entry.rebalanceId && [" ", h("a", { href: `#/runs/${entry.rebalanceId}` }, `rebalance ${entry.rebalanceId}`)]], entry.detail ?? ""]),
      "Nobody did anything yet."),
  ]);
}
