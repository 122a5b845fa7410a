// Partitions × brokers, live. A row is built once and rebuilt only when its partition changed, so a thousand are no effort.

import { cluster } from "./cluster.js";
import { fill, h, partitionLink } from "./page.js";
import { brokerState } from "./overview.js";
import { count, plural } from "./words.js";

const FILTERS = {
  all: ["all partitions", () => true],
  off: ["not on their primary", (partition) => partition.leader !== null && !partition.balanced],
  lag: ["with a follower that lags", (partition) => partition.replicas.some((replica) => replica.lagEntries > 0)],
  weak: ["without spare replica", (partition) => partition.quorumMargin <= 0],
  none: ["without leader", (partition) => partition.leader === null],
};

export function show(content) {
  let filter = "all";
  const select = h("select", { id: "filter", onchange: (event) => {
    filter = event.target.value;
    render();
  } }, Object.entries(FILTERS).map(([key, [title]]) => h("option", { value: key }, title)));
  const shown = h("span", { class: "hint", id: "shown" });
  const head = h("thead");
  const body = h("tbody");
  const rows = new Map();
  content.replaceChildren(
    h("h1", { tabindex: "-1" }, "Partitions"),
    h("div", { class: "tools" }, h("label", { for: "filter" }, "Show"), select, shown),
    h("div", { class: "scroll", role: "region", "aria-label": "Partitions by broker", tabindex: "0" },
      h("table", { class: "matrix", id: "matrix" }, h("caption", { class: "unseen" }, "Who leads each partition, and what each follower lacks"), head, body)),
    h("p", { class: "legend" },
      h("span", { class: "cell leader" }, "leads"), h("span", null, "the primary leads"),
      h("span", { class: "cell leader off" }, "leads ▲"), h("span", null, "leads, but is not the primary"),
      h("span", { class: "cell wanted" }, "0"), h("span", null, "the primary, which should lead"),
      h("span", { class: "cell" }, "+12"), h("span", null, "a follower, and the entries it lacks"),
      h("span", null, "The small number is the priority.")));

  const render = () => {
    const { view } = cluster;
    if (view === null) return;
    const nodes = view.brokers.map((broker) => broker.nodeId);
    fill(head, h("tr", null, h("th", { scope: "col", class: "n" }, "Partition"),
      view.brokers.map((broker) => h("th", { scope: "col", class: "broker" }, h("a", { href: `#/brokers/${broker.nodeId}`, "aria-label": `broker ${broker.nodeId}` }, h("span", { class: "long" }, "broker "), `${broker.nodeId}`), " ", brokerState(broker))),
      h("th", { scope: "col", class: "n" }, "Records"), h("th", { scope: "col", class: "n" }, "Term"), h("th", { scope: "col", class: "n" }, "Margin")));
    const wanted = view.partitions.filter(FILTERS[filter][1]);
    const lines = wanted.map((partition) => {
      const signature = JSON.stringify([partition, nodes]);
      const known = rows.get(partition.partitionId);
      if (known?.signature === signature) return known.line;
      const line = row(partition, nodes);
      if (known) {
        // The same element: whoever stands on its link stays there.
        fill(known.line, [...line.children]);
        known.line.className = line.className;
        known.signature = signature;
        return known.line;
      }
      rows.set(partition.partitionId, { signature, line });
      return line;
    });
    const same = body.children.length === lines.length && lines.every((line, i) => body.children[i] === line);
    if (!same) body.replaceChildren(...lines);
    shown.textContent = wanted.length === view.partitions.length ? plural(wanted.length, "partition") : `${count(wanted.length)} of ${plural(view.partitions.length, "partition")}`;
  };
  render();
  return { title: "Partitions", update: (what) => what === "view" && render() };
}

function row(partition, nodes) {
  const by = new Map(partition.replicas.map((replica) => [replica.nodeId, replica]));
  return h("tr", { class: partition.leader === null ? "leaderless" : null },
    h("th", { scope: "row", class: "n" }, partitionLink(partition.partitionId)),
    nodes.map((node) => cell(partition, by.get(node))),
    h("td", { class: "n" }, count(partition.records)), h("td", { class: "n" }, count(partition.term)),
    h("td", { class: `n ${partition.quorumMargin < 0 ? "bad" : partition.quorumMargin === 0 && partition.replicas.length > 2 ? "warn" : ""}` }, `${partition.quorumMargin}`));
}

function cell(partition, replica) {
  if (!replica) return h("td", { class: "cell empty" }, h("span", { class: "unseen" }, "no replica"));
  const priority = h("small", null, h("span", { class: "unseen" }, ", priority "), `${replica.priority}`);
  const primary = partition.primary === replica.nodeId;
  if (replica.role === "leader") {
    const off = partition.primary !== null && !primary;
    return h("td", { class: off ? "cell leader off" : "cell leader" }, "leads", off && h("span", { title: "not the primary" }, " ▲", h("span", { class: "unseen" }, " not the primary")), priority);
  }
  if (replica.role === "inactive") return h("td", { class: primary ? "cell away wanted" : "cell away" }, "away", priority);
  const lag = replica.lagEntries === null ? "?" : replica.lagEntries === 0 ? "0" : `+${count(replica.lagEntries)}`;
  const classes = ["cell", primary && "wanted", replica.lagEntries > 0 && "lags", replica.health !== "healthy" && "sick"].filter(Boolean).join(" ");
  return h("td", { class: classes }, h("span", { class: "unseen" }, primary ? "primary, follows, lacks " : "follows, lacks "), replica.role === "candidate" ? "stands" : lag, priority);
}
