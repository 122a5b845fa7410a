// Asks for a token. It is kept for this tab only, and sent to this gateway only.

import { fill, h } from "./page.js";

export function signIn(content, problem, done) {
  const field = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-hint" });
  const submit = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (text) done(text);
  };
  const wrong = problem.reason === "NO_CREDENTIALS" ? null : h("p", { class: "trouble", role: "alert" }, problem.message);
  content.replaceChildren(h("form", { class: "sign-in panel", onsubmit: submit },
    h("h1", { tabindex: "-1" }, "Sign in"),
    wrong,
    h("label", { for: "token" }, "Token"),
    field,
    h("p", { id: "token-hint", class: "hint" }, "Role read to look, operate to rebalance and drain. It stays in this tab until you close it or sign out. ", h("code", null, "evenkeel token NAME --role operate"), " makes one."),
    h("button", { type: "submit", class: "primary" }, "Sign in")));
  document.title = "Sign in · Evenkeel";
  field.focus();
}
