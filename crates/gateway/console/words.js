// Numbers and states as people read them. Nothing here touches the page.

const WHOLE = new Intl.NumberFormat("en");

export const count = (n) => (n === null || n === undefined ? "–" : WHOLE.format(n));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (n >= 1024 && i + 1 < units.length) [n, i] = [n / 1024, i + 1];
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function millis(n) {
  if (n === null || n === undefined) return "–";
  return n < 10 ? `${n.toFixed(1)} ms` : n < 1000 ? `${Math.round(n)} ms` : duration(n);
}

export function duration(ms) {
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.round((s % 86400) / 3600)} h`;
}

// Local time; the date only where it is not today's.
export function clock(text, now = new Date()) {
  if (!text) return "–";
  const at = new Date(text);
  const pad = (n, digits = 2) => String(n).padStart(digits, "0");
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return time;
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${time}`;
}

const list = (items) => (items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`);
const some = (ids, most = 4) => (ids.length <= most ? list(ids) : `${ids.slice(0, most).join(", ")} and ${ids.length - most} more`);

// The cluster in one sentence, what would help in another, and how bad it is: good, note, warn or bad.
export function verdict(view, operations) {
  const { brokers, partitions } = view;
  const away = brokers.filter((broker) => !broker.reachable).map((broker) => broker.nodeId);
  const leaderless = partitions.filter((partition) => partition.leader === null).map((partition) => partition.partitionId);
  const off = partitions.filter((partition) => partition.leader !== null && !partition.balanced);
  const margin = quorumMargin(view);
  const told = (tone, headline, remedy = "") => ({ tone, headline, remedy });
  const start = away.length ? `Start ${away.length === 1 ? "broker" : "brokers"} ${some(away)}.` : "";
  if (away.length === brokers.length) return told("bad", "No broker can be reached.", "See whether the brokers run, and whether this gateway's cluster.brokers names them.");
  if (partitions.length === 0) return told("warn", "No partition is known yet.", "Wait for the brokers to report.");
  if (leaderless.length) {
    const which = leaderless.length === partitions.length ? "No partition has a leader" : `${plural(leaderless.length, "partition")} of ${count(partitions.length)} ${leaderless.length === 1 ? "has" : "have"} no leader (${some(leaderless)})`;
    return told("bad", `${which}: reads and writes wait.`, start || "An election is probably under way; if it lasts, look at the brokers' logs.");
  }
  if (view.systemLeader === null) return told("bad", "The system group has no leader: records are served, but nothing can be rebalanced.", start || "Look at the brokers' logs.");
  if (away.length) {
    const spare = margin > 0 ? `${plural(margin, "more replica")} of any partition may fail` : "one more failure stops some of them";
    return told("warn", `${away.length === 1 ? "Broker" : "Brokers"} ${some(away)} ${away.length === 1 ? "is" : "are"} away. Every partition is served; ${spare}.`, start);
  }
  const sick = partitions.filter((partition) => partition.replicas.some((replica) => replica.health !== "healthy"));
  if (sick.length) return told("warn", `All brokers are there, but ${plural(sick.length, "partition")} ${sick.length === 1 ? "has" : "have"} a replica that is not healthy (${some(sick.map((p) => p.partitionId))}).`, "After a restart this passes by itself.");
  if (operations.running) return told("note", "A rebalance is under way. Every partition is served.");
  if (operations.paused) return told("note", "Healthy, and ownership is paused: no rebalance can start.", "When maintenance is over, resume it: evenkeel resume.");
  if (off.length) return told("note", `Healthy, but ${plural(off.length, "leader")} of ${count(partitions.length)} ${off.length === 1 ? "is" : "are"} not on ${off.length === 1 ? "its" : "their"} primary.`, view.priorityElection ? `A rebalance brings ${off.length === 1 ? "it" : "them"} back.` : "Priority election is off: rebalance with the policy even-count.");
  const drained = brokers.filter((broker) => broker.drained).map((broker) => broker.nodeId);
  if (drained.length) return told("note", `Healthy; ${drained.length === 1 ? "broker" : "brokers"} ${some(drained)} ${drained.length === 1 ? "is" : "are"} drained and ${drained.length === 1 ? "leads" : "lead"} nothing.`, "Undrain when the work on it is done.");
  return told("good", "Healthy and balanced.");
}

// The smallest of any partition.
export const quorumMargin = (view) => view.partitions.reduce((least, partition) => Math.min(least, partition.quorumMargin), Infinity);

// The most that any follower lacks: {entries, bytes, partitionId, nodeId}, or null.
export function largestLag(view) {
  let largest = null;
  for (const partition of view.partitions) {
    for (const replica of partition.replicas) {
      if (replica.lagEntries !== null && (largest === null || replica.lagEntries > largest.entries)) {
        largest = { entries: replica.lagEntries, bytes: replica.lagBytes, partitionId: partition.partitionId, nodeId: replica.nodeId };
      }
    }
  }
  return largest;
}

// What a run did, or a plan would do, split by what becomes of each partition.
export function split(run) {
  const moves = run.partitions.filter((p) => p.result === null || p.to !== null);
  const stays = run.partitions.filter((p) => p.result === "ALREADY_LEADER" && p.to === null);
  const skips = run.partitions.filter((p) => p.result !== null && p.to === null && p.result !== "ALREADY_LEADER");
  return { moves, stays, skips };
}

// Why, without the partition that the row is about.
export const why = (partition) => (partition.detail ?? "").replace(/^partition \d+: /, "");

// What became of a partition, by the API's name for it.
export const outcomeWord = (result) => ({ TRANSFERRED: "moved", ALREADY_LEADER: "stayed" })[result] ?? result.toLowerCase().replaceAll("_", " ");

// Leaders and records by broker once a plan is carried out.
export function afterwards(view, plan) {
  const after = new Map(view.brokers.map((broker) => [broker.nodeId, { leaders: 0, records: 0 }]));
  const planned = new Map(plan.partitions.map((p) => [p.partitionId, p.to ?? p.currentLeader]));
  for (const partition of view.partitions) {
    const leader = planned.get(partition.partitionId) ?? partition.leader;
    const entry = leader === null ? undefined : after.get(Number(leader));
    if (!entry) continue;
    entry.leaders += 1;
    entry.records += partition.records;
  }
  return after;
}

// How long writes will be held back, from what earlier transfers took: {each, all} in milliseconds, or null.
export function expectedPause(moves, last) {
  const gaps = (last?.partitions ?? []).map((p) => p.gapMs).filter((gap) => gap !== null).sort((a, b) => a - b);
  if (gaps.length === 0) return null;
  const median = gaps[Math.floor(gaps.length / 2)];
  return { median, worst: gaps.at(-1), all: median * moves, of: gaps.length };
}
