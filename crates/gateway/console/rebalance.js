// The dialogue before a rebalance: the plan in words, what is skipped and why, how long writes will wait, and the same
// thing for a terminal. What is started is this plan and no other.

import { ask, token } from "./api.js";
import { cluster, look } from "./cluster.js";
import { announce, command, dialog, fill, h, table, trouble } from "./page.js";
import { bytes, count, expectedPause, millis, plural, split, why } from "./words.js";

const PATH = "/cluster/v2/rebalance";
const POLICIES = {
  primary: "every partition on its primary",
  "even-count": "as many leaders on each broker",
  records: "as many records on each broker",
};

// A dry run: the balance, with `plannedRebalance`.
export const planFor = async (body) => (await ask("POST", `${PATH}?dryRun=true`, { body })).value;

export function openRebalance() {
  if (document.querySelector("dialog")) return;
  dialog("Rebalance leadership", (body, close) => {
    const request = { policy: "primary" };
    let [balance, error, busy, asked] = [null, null, true, 0];

    const plan = async () => {
      const turn = ++asked;
      [busy, error] = [true, null];
      render();
      try {
        const answer = await planFor(request);
        if (turn === asked) balance = answer;
      } catch (failed) {
        if (turn === asked) [balance, error] = [null, failed];
      }
      if (turn !== asked) return;
      busy = false;
      render();
      if (balance) announce(sentence(balance.plannedRebalance));
    };
    const start = async () => {
      [busy, error] = [true, null];
      render();
      try {
        const { location: run } = await ask("POST", PATH, { body: { ...request, plan: balance.plannedRebalance.plan } });
        close();
        look();
        if (run) location.hash = `#/runs/${run.split("/").at(-1)}`;
        else announce("Nothing had to move.");
      } catch (failed) {
        if (failed.reason === "PLAN_CHANGED") await plan();
        [busy, error] = [false, failed];
        render();
      }
    };
    const choose = (event) => {
      request.policy = event.target.value;
      plan();
    };
    const limit = (event) => {
      const ms = Number(event.target.value);
      if (event.target.value !== "" && ms > 0) request.pauseBudget = `PT${ms / 1000}S`;
      else delete request.pauseBudget;
      plan();
    };
    const render = () => {
      const planned = balance?.plannedRebalance;
      const moves = planned ? split(planned).moves.length : 0;
      const ready = planned && moves > 0 && !busy && !balance.runningRebalance;
      fill(body,
        h("div", { class: "form" },
          h("label", { for: "policy" }, "Goal"),
          h("select", { id: "policy", onchange: choose }, Object.entries(POLICIES).map(([value, title]) => h("option", { value }, title))),
          h("label", { for: "budget" }, "Stop once writes have waited, in all, for"),
          h("span", null, h("input", { id: "budget", type: "number", min: "1", step: "1", inputmode: "numeric", placeholder: "no limit", onchange: limit }), " ms")),
        h("div", { class: "plan", "aria-busy": busy ? "true" : "false" }, planned ? shown(planned, balance, request) : busy ? h("p", { class: "loading" }, "Asking the leaders how far their followers are…") : null),
        h("div", null, error && trouble(error)),
        h("div", { class: "actions" },
          h("button", { type: "button", onclick: close }, "Close"),
          h("button", { type: "button", onclick: plan, disabled: busy }, "Plan anew"),
          h("button", { type: "button", class: "primary", id: "start", onclick: start, disabled: !ready }, moves ? `Move ${plural(moves, "partition")}` : "Nothing to move")));
    };
    plan();
  });
}

function sentence(plan) {
  const { moves, stays, skips } = split(plan);
  if (moves.length === 0 && skips.length === 0) return `Nothing has to move: all ${plural(stays.length, "partition")} are led as wanted.`;
  const parts = [`${moves.length ? plural(moves.length, "partition") : "No partition"} would move`, `${count(stays.length)} stay`];
  if (skips.length) parts.push(`${count(skips.length)} would be skipped`);
  return `${parts.join(", ")}.`;
}

// "broker 1 takes 3 from broker 0 (partitions 2, 5, 8)", largest first.
function inWords(moves) {
  const groups = new Map();
  for (const { partitionId, from, to } of moves) {
    const key = `${from}→${to}`;
    if (!groups.has(key)) groups.set(key, { from, to, ids: [] });
    groups.get(key).ids.push(partitionId);
  }
  const lines = [...groups.values()].sort((a, b) => b.ids.length - a.ids.length);
  return h("ul", { class: "plain" }, lines.map(({ from, to, ids }) => h("li", null,
    `Broker ${to} takes ${plural(ids.length, "partition")} over from broker ${from}: ${ids.slice(0, 12).join(", ")}${ids.length > 12 ? " …" : ""}`)));
}

function shown(plan, balance, request) {
  const { moves, skips } = split(plan);
  const pause = expectedPause(moves.length, balance.lastCompletedRebalance);
  const wait = moves.length === 0 ? null : pause === null
    ? "Writes to a partition wait while it moves, usually some milliseconds; nothing fails. No earlier run tells how long here."
    : `Writes to a partition wait about ${millis(pause.median)} while it moves, ${millis(pause.all)} over all of them; nothing fails. The last run's ${plural(pause.of, "transfer")} took ${millis(pause.worst)} at most.`;
  const lag = Math.max(0, ...moves.map((move) => move.lagBytes ?? 0));
  const authorization = token.get() ? " -H \"Authorization: Bearer $EVENKEEL_TOKEN\"" : "";
  const body = JSON.stringify({ ...request, plan: plan.plan });
  const budget = request.pauseBudget ? ` --pause-budget ${Math.round(1000 * Number(request.pauseBudget.slice(2, -1)))}ms` : "";
  return [
    h("p", { class: "sentence", id: "plan-sentence" }, sentence(plan)),
    balance.runningRebalance && h("p", { class: "trouble" }, `Rebalance ${balance.runningRebalance.rebalanceId} is under way: wait for it, or `, h("a", { href: `#/runs/${balance.runningRebalance.rebalanceId}` }, "look at it"), "."),
    moves.length > 0 && inWords(moves),
    wait && h("p", null, wait, lag > 0 && ` Those who take over lack up to ${bytes(lag)}, which is sent before.`),
    skips.length > 0 && h("h3", null, "Skipped, and why"),
    skips.length > 0 && table("Skipped partitions", [{ title: "Partition", n: true }, "Reason", "What would help"], skips.map((skip) => [`${skip.partitionId}`, h("code", null, skip.reason ?? skip.result), why(skip)])),
    moves.length > 0 && h("details", null, h("summary", null, "Each move"), table("Moves", [{ title: "Partition", n: true }, "From", "To", { title: "Lacks", n: true }, "Why"], moves.map((move) => [`${move.partitionId}`, `broker ${move.from}`, `broker ${move.to}`, bytes(move.lagBytes), why(move)]))),
    moves.length > 0 && h("details", { open: true }, h("summary", null, "The same in a terminal"),
      command("command line", `evenkeel rebalance --plan ${plan.plan} --policy ${request.policy}${budget} --watch`),
      command("curl", `curl -X POST ${location.origin}${PATH}${authorization} -d '${body}'`)),
  ];
}
