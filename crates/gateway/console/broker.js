// One broker: its machine, what a restart would cost, what it leads; and draining it.

import { ask as send, get } from "./api.js";
import { cluster, look } from "./cluster.js";
import { brokerState } from "./overview.js";
import { announce, bar, dialog, facts, fill, h, partitionLink, table, trouble } from "./page.js";
import { bytes, clock, count, duration, plural } from "./words.js";

const RISK_MS = 5_000;
const EXPIRES_SOON_MS = 14 * 86_400_000;

export function show(content, id) {
  const node = Number(id);
  let [risk, error, busy, closed] = [null, null, false, false];
  const assess = async () => {
    if (document.visibilityState === "visible") {
      // A gateway that does not tell has no such endpoint, and the page no such section.
      risk = await get(`/cluster/v2/brokers/${id}/restart-risk`).catch(() => null);
      if (!closed) render();
    }
  };
  const act = async (method) => {
    [busy, error] = [true, null];
    render();
    try {
      const { value } = await send(method, `/cluster/v2/brokers/${id}/drain`);
      announce(method === "PUT" ? `Broker ${id} is drained.` : `Broker ${id} may lead again; rebalance to give it its partitions.`);
      look();
      if (value.rebalanceId) location.hash = `#/runs/${value.rebalanceId}`;
    } catch (failed) {
      error = failed;
    }
    busy = false;
    if (!closed) render();
  };
  const render = () => {
    const { view } = cluster;
    const broker = view?.brokers.find((one) => one.nodeId === node);
    fill(content, h("h1", { tabindex: "-1" }, `Broker ${id}`),
      view === null ? h("p", { class: "loading" }, "Waiting for the gateway…") : broker ? shown(view, broker, risk, busy, act) : h("p", null, "There is no such broker in this gateway's cluster.brokers."),
      h("div", null, error && trouble(error)));
  };
  render();
  assess();
  const ticking = setInterval(assess, RISK_MS);
  return {
    title: `Broker ${id}`,
    update: (what) => what === "view" && render(),
    close: () => {
      closed = true;
      clearInterval(ticking);
    },
  };
}

function confirmDrain(broker, act) {
  dialog(`Drain broker ${broker.nodeId}?`, (body, close) => {
    const go = () => {
      close();
      act("PUT");
    };
    body.append(
      h("p", null, broker.leaders ? `What it leads, ${plural(broker.leaders, "partition")}, moves to other brokers; writes to each wait some milliseconds.` : "It leads nothing now.", " It keeps replicating, and leads nothing until it is undrained, also over restarts."),
      h("div", { class: "actions" }, h("button", { type: "button", onclick: close }, "Close"), h("button", { type: "button", class: "primary", id: "confirm-drain", onclick: go }, "Drain")));
  });
}

function certificate(broker) {
  if (broker.certificateExpiresAt === null) return null;
  const left = new Date(broker.certificateExpiresAt) - Date.now();
  return ["Certificate", left < 0 ? "expired" : `expires in ${duration(left)}`, left < 0 ? "bad" : left < EXPIRES_SOON_MS ? "warn" : null];
}

function shown(view, broker, risk, busy, act) {
  const held = view.partitions.filter((partition) => partition.replicas.some((replica) => replica.nodeId === broker.nodeId));
  const used = broker.diskSizeBytes === null ? null : broker.diskSizeBytes - (broker.diskFreeBytes ?? 0);
  const drain = broker.drained
    ? h("button", { type: "button", id: "undrain", onclick: () => act("DELETE"), disabled: busy }, "Undrain")
    : h("button", { type: "button", id: "drain", onclick: () => confirmDrain(broker, act), disabled: busy }, "Drain…");
  return [
    h("div", { class: "tools" }, brokerState(broker), h("code", null, `${broker.host}:${broker.port}`), drain),
    facts(["Leads", `${count(broker.leaders)} of ${plural(broker.replicas, "replica")}`], ["Primary of", count(broker.primaries)], ["Records led", count(broker.records)],
      ["Replicated since start", bytes(broker.replicatedBytesTotal)],
      used !== null && ["Disk", [`${bytes(broker.diskFreeBytes)} free of ${bytes(broker.diskSizeBytes)}`, bar(used, broker.diskSizeBytes)], broker.diskFreeBytes * 10 < broker.diskSizeBytes ? "warn" : null],
      certificate(broker), ["Version", broker.version || "–"], ["Id", h("code", null, broker.uuid || "–")]),
    risk && restart(risk),
    h("h2", null, "Partitions"),
    table(`Partitions with a replica on broker ${broker.nodeId}`, [{ title: "Partition", n: true }, "Role", { title: "Priority", n: true }, { title: "Lag, entries", n: true }, { title: "Lag, bytes", n: true }, { title: "Records", n: true }],
      held.map((partition) => {
        const replica = partition.replicas.find((one) => one.nodeId === broker.nodeId);
        return [partitionLink(partition.partitionId), h("span", { class: `role ${replica.role}` }, replica.role === "inactive" ? "away" : replica.role), `${replica.priority}${partition.primary === broker.nodeId ? " (primary)" : ""}`, count(replica.lagEntries), bytes(replica.lagBytes), count(partition.records)];
      }), "None."),
  ];
}

function restart(risk) {
  const yes = (value, word) => (value ? h("span", { class: "state bad" }, word) : h("span", { class: "state same" }, "no"));
  const at = risk.partitions.filter((partition) => partition.losesAvailability || partition.losesDurability || partition.detail);
  return h("section", { "aria-labelledby": "risk" }, h("h2", { id: "risk" }, "If it were restarted now"),
    h("p", null, h("span", { class: `state ${risk.safe ? "good" : "bad"}` }, risk.safe ? "safe" : "not safe"), " ", risk.verdict),
    at.length > 0 && table("Partitions at risk", [{ title: "Partition", n: true }, "Would be unavailable", "Could lose records", "Why"],
      at.map((partition) => [partition.partitionId === 0 ? "system" : partitionLink(partition.partitionId), yes(partition.losesAvailability, "yes"), yes(partition.losesDurability, "yes"), partition.detail ?? ""])));
}
