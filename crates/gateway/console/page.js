// Builds elements, and brings a page up to date without losing focus, selection or scroll position.

// Announcements that stay in the page, for those who read them again.
const ANNOUNCED_MAX = 20;
const HANDLERS = ["onclick", "onchange", "oninput", "onsubmit"];

// An element: h("td", {class: "n"}, "text", child, [children]). Null and false are left out.
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (HANDLERS.includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Makes `from` look like `to`. Elements that are there stay, so focus does, too.
export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || from.dataset?.key !== to.dataset?.key) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  for (const name of HANDLERS) from[name] = to[name];
  if (from.dataset.keep !== undefined) return;
  const wanted = [...to.childNodes];
  const there = [...from.childNodes];
  wanted.forEach((child, i) => (there[i] ? morph(there[i], child) : from.append(child)));
  there.slice(wanted.length).forEach((child) => child.remove());
}

// Fills `parent` with these children in place of its own.
export function fill(parent, ...children) {
  const to = parent.cloneNode(false);
  to.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const name of HANDLERS) to[name] = parent[name];
  morph(parent, to);
}

// A table with a caption for those who do not see it. A column is a title, or {title, n: numbers, class}.
export function table(caption, columns, rows, empty) {
  if (rows.length === 0 && empty) return h("p", { class: "none" }, empty);
  const heads = columns.map((column) =>
    h("th", { scope: "col", class: column.n ? "n" : null }, column.title ?? column));
  const lines = rows.map((cells) => h("tr", null, cells.map((cell, i) => {
    const name = columns[i].n ? "n" : columns[i].class ?? null;
    return i === 0 ? h("th", { scope: "row", class: name }, cell) : h("td", { class: name }, cell);
  })));
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", null, h("caption", { class: "unseen" }, caption), h("thead", null, h("tr", null, heads)), h("tbody", null, lines)));
}

// Pairs of a term and what it is.
export function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([term, value, tone]) =>
    h("div", { class: tone ?? null }, h("dt", null, term), h("dd", null, value))));
}

// A bar beside a number, which says the same in words: for the eye only.
export function bar(value, most, mark) {
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
    return element;
  };
  const part = (number) => (most > 0 ? Math.min(100, (100 * number) / most) : 0).toFixed(1);
  const drawn = svg("svg", { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawn.append(svg("rect", { class: "track", width: 100, height: 10 }), svg("rect", { class: "value", width: part(value), height: 10 }));
  if (mark !== undefined) drawn.append(svg("rect", { class: "mark", x: Math.max(0, part(mark) - 1.2).toFixed(1), width: 1.2, height: 10 }));
  return drawn;
}

// What went wrong, in place of what was to be shown.
export function trouble(error) {
  const hint = error.status === 403 ? "Sign in with a token of the role that this takes." : null;
  return h("div", { class: "trouble", role: "alert" }, h("strong", null, error.title ?? "Error"), " ", error.message, hint && h("p", null, hint));
}

// Text that is to be copied into a terminal.
export function command(label, text) {
  const copied = (event) => navigator.clipboard?.writeText(text).then(
    () => announce(`${label} copied`), () => announce("the browser does not let this page copy; select the text"));
  return h("div", { class: "command" }, h("span", { class: "label" }, label), h("code", null, text),
    h("button", { type: "button", class: "quiet", onclick: copied, "aria-label": `Copy ${label}` }, "Copy"));
}

// Says something to those who listen rather than look; what is added is read out, each after the other.
export function announce(text) {
  const announcer = document.getElementById("announcer");
  if (announcer.lastElementChild?.textContent === text) return;
  announcer.append(h("p", null, text));
  while (announcer.childElementCount > ANNOUNCED_MAX) announcer.firstElementChild.remove();
}

// A modal dialogue, which the browser keeps the focus in. `fillIn` gets its body and how to close it.
export function dialog(title, fillIn) {
  const close = () => element.close();
  const body = h("div", { class: "dialog-body" });
  const element = h("dialog", { "aria-labelledby": "dialog-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title),
      h("button", { type: "button", class: "quiet", onclick: close, "aria-label": "Close" }, "✕")), body);
  const opener = document.activeElement;
  element.addEventListener("close", () => {
    element.remove();
    opener?.focus?.();
  });
  document.body.append(element);
  fillIn(body, close);
  element.showModal();
  return element;
}

export const brokerLink = (node) => h("a", { href: `#/brokers/${node}` }, `broker ${node}`);
export const partitionLink = (id) => h("a", { href: `#/partitions/${id}` }, `${id}`);
