// How the cluster is, in one sentence and a few numbers; what is being done; and who leads how much.

import { cluster } from "./cluster.js";
import { bar, brokerLink, facts, fill, h, partitionLink, table, trouble } from "./page.js";
import { planFor } from "./rebalance.js";
import { afterwards, bytes, clock, count, largestLag, plural, quorumMargin, split, verdict } from "./words.js";

const CHANGES_SHOWN = 12;

export const spokenVerdict = () => verdict(cluster.view, cluster.operations).headline;

export function show(content) {
  let plan = null;
  let planError = null;
  let planning = false;
  // A plan is of the leaders that there were.
  let plannedFor = null;
  const leaders = () => cluster.view.partitions.map((partition) => partition.leader).join();
  const compare = async () => {
    [planning, plannedFor] = [true, leaders()];
    render();
    try {
      [plan, planError] = [(await planFor({})).plannedRebalance, null];
    } catch (error) {
      [plan, planError] = [null, error];
    }
    planning = false;
    render();
  };
  const render = () => {
    const { view, operations } = cluster;
    if (view === null) return fill(content, h("h1", { tabindex: "-1" }, "Overview"), h("p", { class: "loading" }, "Waiting for the gateway…"));
    if (plan && plannedFor !== leaders()) plan = null;
    const { tone, headline, remedy } = verdict(view, operations);
    fill(content,
      h("h1", { class: "unseen", tabindex: "-1" }, "Overview"),
      h("section", { class: `verdict ${tone}`, "aria-label": "Verdict" },
        h("p", { class: "headline", id: "verdict" }, headline), remedy && h("p", { class: "remedy" }, remedy)),
      numbers(view),
      h("section", { "aria-labelledby": "under-way" }, h("h2", { id: "under-way" }, "Under way"), underWay(view, operations)),
      h("section", { "aria-labelledby": "loads" },
        h("div", { class: "section-head" }, h("h2", { id: "loads" }, "Leaders and records per broker"),
          h("button", { type: "button", onclick: compare, disabled: planning, id: "compare" }, planning ? "Asking the leaders…" : plan ? "Plan anew" : "Compare with the plan")),
        loads(view, plan), planError && trouble(planError), plan && h("p", { class: "hint" }, inWords(plan))),
      h("section", { "aria-labelledby": "changes" }, h("h2", { id: "changes" }, "Leadership changes since this page was opened"), changes()));
  };
  render();
  return { title: "Overview", update: render };
}

function numbers(view) {
  const margin = quorumMargin(view);
  const partitions = view.partitions.length;
  const led = view.partitions.filter((partition) => partition.leader !== null).length;
  const home = view.partitions.filter((partition) => partition.leader !== null && partition.balanced).length;
  const there = view.brokers.filter((broker) => broker.reachable).length;
  const lag = largestLag(view);
  return facts(
    ["Quorum margin", margin === Infinity ? "–" : margin < 0 ? "lost" : `${margin}`, margin < 0 ? "bad" : margin === 0 && view.replicationFactor > 2 ? "warn" : null],
    ["Brokers", `${there} of ${view.brokers.length}`, there < view.brokers.length ? "warn" : null],
    ["Partitions led", `${count(led)} of ${count(partitions)}`, led < partitions ? "bad" : null],
    ["On their primary", `${count(home)} of ${count(partitions)}`, home < led ? "note" : null],
    ["Largest lag", lag === null ? "–" : lag.entries === 0 ? "none" : `${count(lag.entries)} entries`],
    ["Records", count(view.partitions.reduce((sum, partition) => sum + partition.records, 0))],
  );
}

function underWay(view, { running, paused }) {
  const lines = [];
  if (running) {
    const done = running.partitions.filter((partition) => partition.progress === "COMPLETED").length;
    lines.push(h("li", null, h("a", { href: `#/runs/${running.rebalanceId}` }, `Rebalance ${running.rebalanceId}`), ` since ${clock(running.startedAt)}: ${count(done)} of ${plural(running.partitions.length, "partition")} done`, running.cancelRequested && ", cancelling"));
  }
  if (paused) lines.push(h("li", null, "Ownership is paused"));
  for (const broker of view.brokers) {
    if (broker.drained) lines.push(h("li", null, brokerLink(broker.nodeId), ` is drained${broker.leaders ? ` and still leads ${count(broker.leaders)}` : ""}`));
    if (broker.stopping && broker.reachable) lines.push(h("li", null, brokerLink(broker.nodeId), " is stopping and hands its leaderships over"));
  }
  return lines.length ? h("ul", { class: "plain" }, lines) : h("p", { class: "none" }, "Nothing.");
}

export function brokerState(broker) {
  const [tone, word] = !broker.reachable ? ["bad", "away"] : broker.stopping ? ["warn", "stopping"] : broker.drained ? ["note", "drained"] : ["good", "up"];
  return h("span", { class: `state ${tone}` }, word);
}

function loads(view, plan) {
  const after = plan && afterwards(view, plan);
  const mostLeaders = Math.max(1, ...view.brokers.map((broker) => Math.max(broker.leaders, broker.primaries)));
  const mostRecords = Math.max(1, ...view.brokers.map((broker) => broker.records));
  const columns = ["Broker", "State", { title: "Leaders", n: true }, { title: "", class: "wide" }, { title: "Primary of", n: true }, after && { title: "Planned", n: true },
    { title: "Records", n: true }, { title: "", class: "wide" }, after && { title: "Planned", n: true }, { title: "Disk free", n: true }].filter(Boolean);
  const change = (before, planned) => h("span", { class: planned === before ? "same" : "differs" }, count(planned), planned !== before && h("span", { class: "delta" }, ` ${planned > before ? "+" : "−"}${count(Math.abs(planned - before))}`));
  return table("Leaders and records per broker", columns, view.brokers.map((broker) => {
    const planned = after?.get(broker.nodeId);
    return [brokerLink(broker.nodeId), brokerState(broker), count(broker.leaders), bar(broker.leaders, mostLeaders, broker.primaries), count(broker.primaries), planned && change(broker.leaders, planned.leaders),
      count(broker.records), bar(broker.records, mostRecords), planned && change(broker.records, planned.records), bytes(broker.reachable ? broker.diskFreeBytes : null)].filter((cell) => cell !== null && cell !== undefined);
  }));
}

function inWords(plan) {
  const { moves, skips } = split(plan);
  const skipped = skips.length ? `; ${plural(skips.length, "partition")} would be left where ${skips.length === 1 ? "it is" : "they are"}, with a reason` : "";
  return moves.length === 0 && skips.length === 0 ? "Nothing has to move." : `A rebalance now would move ${plural(moves.length, "partition")}${skipped}. Press Rebalance to see which.`;
}

function changes() {
  const by = (node) => (node === null ? "nobody" : brokerLink(node));
  return table("Leadership changes", ["Time", "Partition", "From", "To", { title: "Term", n: true }],
    cluster.changes.slice(0, CHANGES_SHOWN).map((change) => [clock(change.at), partitionLink(change.partitionId), by(change.from), by(change.to), count(change.term)]), "None.");
}
