// One run: live while it goes on, and what became of each partition.

import { ask, stream } from "./api.js";
import { cluster, look } from "./cluster.js";
import { announce, brokerLink, facts, fill, h, partitionLink, table, trouble } from "./page.js";
import { clock, count, duration, millis, outcomeWord, plural, why } from "./words.js";

// More rows than anybody reads: those that are done and went well are counted instead.
const ROWS_MAX = 300;

export function show(content, id) {
  let [run, error, cancelling] = [null, null, false];
  const cancel = async () => {
    cancelling = true;
    render();
    try {
      const { value } = await ask("DELETE", `/cluster/v2/rebalance/${id}`);
      announce(value.wasRunning ? "Cancelling: transfers under way finish, the others are left." : "The run had ended already.");
      look();
    } catch (failed) {
      [error, cancelling] = [failed, false];
    }
    render();
  };
  const render = () => fill(content, h("h1", { tabindex: "-1" }, `Rebalance ${id}`), run ? shown(run, cancelling, cancel) : error ? null : h("p", { class: "loading" }, "Reading the run…"), h("div", null, error && trouble(error)));
  let drawing = null;
  const later = () => {
    drawing ??= requestAnimationFrame(() => {
      drawing = null;
      render();
    });
  };
  const end = stream(`/cluster/v2/rebalance/${id}/events`, (name, data) => {
    error = null;
    if (name === "partition") {
      const at = run.partitions.findIndex((partition) => partition.partitionId === data.partitionId);
      if (at < 0) run.partitions.push(data);
      else run.partitions[at] = data;
      if (data.progress === "COMPLETED") announce(`Partition ${data.partitionId}: ${data.detail ?? data.result}. ${progress(run)}`);
    } else run = data;
    if (name === "finished") {
      announce(`Rebalance ${id}: ${outcome(run)}`);
      look();
    }
    later();
    return name === "finished";
  }, (state, failed) => {
    if (failed && ![0, 401, 503].includes(failed.status)) [error] = [failed, later()];
  });
  render();
  return {
    title: `Rebalance ${id}`,
    // Asked for by somebody else.
    update: (what) => {
      const now = cluster.operations.running;
      if (what === "operations" && run && !run.result && now?.rebalanceId === run.rebalanceId && now.cancelRequested !== run.cancelRequested) {
        run.cancelRequested = now.cancelRequested;
        later();
      }
    },
    close: () => {
      end();
      if (drawing) cancelAnimationFrame(drawing);
    },
  };
}

const done = (run) => run.partitions.filter((partition) => partition.progress === "COMPLETED").length;
const progress = (run) => `${count(done(run))} of ${count(run.partitions.length)} done`;

function tally(run) {
  const by = new Map();
  for (const { result } of run.partitions) if (result) by.set(result, (by.get(result) ?? 0) + 1);
  return [...by].sort((a, b) => b[1] - a[1]);
}

function outcome(run) {
  const words = { COMPLETED: "Completed", CANCELLED: "Cancelled", FAILED: "Ended, but not every partition could be moved" };
  const results = tally(run).map(([result, n]) => `${count(n)} ${outcomeWord(result)}`).join(", ");
  return `${words[run.result] ?? run.result}: ${results || "nothing to do"}`;
}

const TONES = { COMPLETED: "good", CANCELLED: "warn", FAILED: "bad" };

function shown(run, cancelling, cancel) {
  const gaps = run.partitions.map((partition) => partition.gapMs).filter((gap) => gap !== null).sort((a, b) => a - b);
  const ended = run.finishedAt !== undefined;
  const elapsed = ended ? duration(new Date(run.finishedAt) - new Date(run.startedAt)) : null;
  const stopping = run.cancelRequested || cancelling;
  return [
    h("section", { class: `verdict ${ended ? TONES[run.result] : "note"}`, "aria-label": "Progress" },
      h("p", { class: "headline", id: "run-state" }, ended ? `${outcome(run)}.` : `${stopping ? "Cancelling" : "Under way"}: ${progress(run)}.`),
      h("progress", { max: Math.max(1, run.partitions.length), value: done(run), "aria-label": "Partitions done" }),
      !ended && h("div", { class: "actions" }, h("button", { type: "button", class: "danger", id: "cancel", onclick: cancel, disabled: stopping }, stopping ? "Cancelling…" : "Cancel"),
        h("span", { class: "hint" }, "Transfers under way finish; the others are left as they are."))),
    facts(["Started", clock(run.startedAt)], elapsed && ["Took", elapsed], ["Goal", run.policy], ["Plan", h("code", null, run.plan)],
      ["Writes waited", gaps.length ? `${millis(gaps.reduce((a, b) => a + b, 0))} in all` : "–"],
      gaps.length > 0 && ["Longest", millis(gaps.at(-1))]),
    partitions(run),
  ];
}

function partitions(run) {
  const order = { TRANSFERRING: 0, PENDING: 2, COMPLETED: 3 };
  const rank = (partition) => (partition.progress === "COMPLETED" && partition.result !== "TRANSFERRED" && partition.result !== "ALREADY_LEADER" ? 1 : order[partition.progress]);
  const sorted = [...run.partitions].sort((a, b) => rank(a) - rank(b) || a.partitionId - b.partitionId);
  const by = (node) => (node === null ? "–" : brokerLink(node));
  const state = (partition) => {
    const [tone, word] = partition.result ? [{ TRANSFERRED: "good", ALREADY_LEADER: "same", CANCELLED: "warn" }[partition.result] ?? "bad", outcomeWord(partition.result)]
      : partition.progress === "TRANSFERRING" ? ["note", "moving"] : ["same", "waits"];
    return h("span", { class: `state ${tone}` }, word);
  };
  return [
    table("Partitions of this run", [{ title: "Partition", n: true }, "State", "From", "To", { title: "Writes waited", n: true }, "Why"],
      sorted.slice(0, ROWS_MAX).map((partition) => [partitionLink(partition.partitionId), state(partition), by(partition.from ?? partition.currentLeader), by(partition.to), millis(partition.gapMs), why(partition)]), "No partition takes part."),
    sorted.length > ROWS_MAX && h("p", { class: "hint" }, `and ${plural(sorted.length - ROWS_MAX, "more partition")}, all of them further down in the same order: GET /cluster/v2/rebalance/${run.rebalanceId} has all.`),
  ];
}
