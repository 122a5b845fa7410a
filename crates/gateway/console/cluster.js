// The cluster as the gateway streams it, and what is being done to it; pages are told when either changes.

import { get, stream } from "./api.js";

const LOOK_MS = 2_000;
// Changes of leadership that the page remembers.
const CHANGES_MAX = 200;

export const cluster = {
  view: null,
  // {running, last, paused}: the run under way, the last one, and whether ownership is paused (null: nobody can tell).
  operations: { running: null, last: null, paused: null },
  // Newest first: {at, partitionId, from, to, term}.
  changes: [],
};

const listeners = new Set();
let end = () => {};
let looking = null;

// `listener(what)` hears "view", with the partitions that changed, and "operations". Returns how to stop it.
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = (what, partitions) => listeners.forEach((listener) => listener(what, partitions));

export function start(state) {
  stop();
  end = stream("/cluster/v2/topology/events", take, state);
  look();
}

export function stop() {
  end();
  clearTimeout(looking);
  looking = null;
}

function take(name, data) {
  const before = cluster.view?.partitions ?? [];
  if (name === "snapshot") cluster.view = data;
  else if (name === "changed") {
    cluster.view.brokers = merged(cluster.view.brokers, data.brokers, "nodeId");
    cluster.view.partitions = merged(cluster.view.partitions, data.partitions, "partitionId");
  } else return;
  for (const now of data.partitions) {
    const then = before[now.partitionId - 1];
    if (then && (then.leader !== now.leader || then.term !== now.term)) {
      cluster.changes.unshift({ at: new Date().toISOString(), partitionId: now.partitionId, from: then.leader, to: now.leader, term: now.term });
    }
  }
  cluster.changes.length = Math.min(cluster.changes.length, CHANGES_MAX);
  tell("view", name === "snapshot" ? null : data.partitions.map((partition) => partition.partitionId));
}

function merged(all, changed, key) {
  const by = new Map(changed.map((item) => [item[key], item]));
  return all.map((item) => by.get(item[key]) ?? item);
}

// What the stream does not tell. Asked again soon after somebody acted, else every two seconds while the page is seen.
export async function look() {
  clearTimeout(looking);
  if (document.visibilityState === "visible") {
    try {
      const [balance, ownership] = await Promise.all([get("/cluster/v2/rebalance"), get("/ESCManager/internal/ownership")]);
      cluster.operations = { running: balance.runningRebalance, last: balance.lastCompletedRebalance, paused: ownership.paused };
      tell("operations");
    } catch (error) {
      if (error.status === 401) return;
    }
  }
  clearTimeout(looking);
  looking = setTimeout(look, LOOK_MS);
}
