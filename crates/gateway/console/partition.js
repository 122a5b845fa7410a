// One partition: its replicas, how far their logs are, and who led it.

import { get } from "./api.js";
import { cluster } from "./cluster.js";
import { brokerLink, facts, fill, h, table, trouble } from "./page.js";
import { bytes, clock, count, duration } from "./words.js";

const ASK_MS_MIN = 1_000;
const TONES = 6;

export function show(content, id) {
  let [detail, error, asking, again, closed] = [null, null, null, false, false];
  const ask = async () => {
    if (asking) {
      again = true;
      return;
    }
    asking = setTimeout(() => {
      asking = null;
      if (again && !closed) ask();
    }, ASK_MS_MIN);
    again = false;
    try {
      [detail, error] = [await get(`/cluster/v2/partitions/${id}`), null];
    } catch (failed) {
      error = failed;
    }
    if (!closed) render();
  };
  const render = () => {
    const now = cluster.view?.partitions[id - 1];
    // The stream is ahead of what was asked for last.
    const partition = detail && { ...detail, ...now, replicas: detail.replicas };
    fill(content, h("p", { class: "crumb" }, h("a", { href: "#/partitions" }, "Partitions")), h("h1", { tabindex: "-1" }, `Partition ${id}`),
      partition ? shown(partition, detail.leaderships) : error ? null : h("p", { class: "loading" }, "Asking…"), h("div", null, error && trouble(error)));
  };
  render();
  ask();
  const ticking = setInterval(() => document.visibilityState === "visible" && ask(), 2 * ASK_MS_MIN);
  return {
    title: `Partition ${id}`,
    update: (what, partitions) => what === "view" && (partitions === null || partitions.includes(Number(id))) && ask(),
    close: () => {
      closed = true;
      clearTimeout(asking);
      clearInterval(ticking);
    },
  };
}

function sentence(partition) {
  if (partition.leader === null) return ["bad", "Nobody leads it: reads and writes wait."];
  if (partition.primary === null) return ["note", `Broker ${partition.leader} leads it. It has no single primary.`];
  if (!partition.balanced) return ["note", `Broker ${partition.leader} leads it; broker ${partition.primary} is its primary and should.`];
  if (partition.quorumMargin === 0 && partition.replicas.length > 2) return ["warn", `Broker ${partition.leader} leads it, as it should; one more failure stops it.`];
  return ["good", `Broker ${partition.leader} leads it, as it should.`];
}

function shown(partition, leaderships) {
  const [tone, words] = sentence(partition);
  const replicas = [...partition.replicas].sort((a, b) => b.priority - a.priority);
  return [
    h("section", { class: `verdict ${tone}`, "aria-label": "Verdict" }, h("p", { class: "headline" }, words)),
    facts(["Records", count(partition.records)], ["Term", count(partition.term)], ["Quorum margin", partition.quorumMargin < 0 ? "lost" : `${partition.quorumMargin}`, partition.quorumMargin < 0 ? "bad" : null], ["Replicas", `${replicas.length}`]),
    h("h2", null, "Replicas"),
    table("Replicas", ["Broker", "Role", { title: "Priority", n: true }, "Health", { title: "Lag, entries", n: true }, { title: "Lag, bytes", n: true }, { title: "Last log index", n: true }, { title: "Committed", n: true }, { title: "Applied", n: true }],
      replicas.map((replica) => [brokerLink(replica.nodeId), h("span", { class: `role ${replica.role}` }, replica.role === "inactive" ? "away" : replica.role), `${replica.priority}${replica.nodeId === partition.primary ? " (primary)" : ""}`, h("span", { class: `state ${replica.health === "healthy" ? "good" : "bad"}` }, replica.health), count(replica.lagEntries), bytes(replica.lagBytes), count(replica.lastLogIndex), count(replica.commitIndex), count(replica.appliedIndex)])),
    h("h2", null, "Leaderships"),
    h("p", { class: "hint" }, "As this gateway has seen them since it was started, 50 at most."),
    timeline(leaderships),
    table("Leaderships", ["Since", "For", "Leader", { title: "Term", n: true }], leaderships.map((leadership, i) => [clock(leadership.at), duration(new Date(i === 0 ? Date.now() : leaderships[i - 1].at) - new Date(leadership.at)), leadership.leader === null ? h("span", { class: "state bad" }, "nobody") : brokerLink(leadership.leader), count(leadership.term)]), "None yet."),
  ];
}

// The last leaderships by time, oldest at the left; the table says the same.
function timeline(leaderships) {
  if (leaderships.length < 2) return null;
  const oldest = [...leaderships].reverse();
  const begin = new Date(oldest[0].at).getTime();
  const span = Math.max(1, Date.now() - begin);
  const svg = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.append(text);
    return element;
  };
  const drawn = svg("svg", { class: "timeline", viewBox: "0 0 1000 26", preserveAspectRatio: "none", "aria-hidden": "true" });
  oldest.forEach((leadership, i) => {
    const from = (1000 * (new Date(leadership.at).getTime() - begin)) / span;
    const to = i + 1 < oldest.length ? (1000 * (new Date(oldest[i + 1].at).getTime() - begin)) / span : 1000;
    drawn.append(svg("rect", { x: from.toFixed(1), width: Math.max(1, to - from).toFixed(1), height: 26, class: leadership.leader === null ? "nobody" : `tone-${leadership.leader % TONES}` }));
  });
  const nodes = [...new Set(oldest.map((leadership) => leadership.leader))].sort();
  return h("figure", { class: "leaderships" }, drawn, h("figcaption", null, `${clock(oldest[0].at)} to now: `, nodes.map((node) => h("span", { class: "key" }, h("span", { class: `swatch ${node === null ? "nobody" : `tone-${node % TONES}`}` }), node === null ? "nobody" : `broker ${node}`))));
}
