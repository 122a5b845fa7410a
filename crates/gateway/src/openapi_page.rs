//! An OpenAPI document as one HTML page that needs nothing else: no script, no font, no network.

use std::fmt::Write;

use serde_json::Value;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 20%,transparent)}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
code{font:0.9em ui-monospace,monospace}h2{margin-top:2.5rem}\
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}\
summary{cursor:pointer}summary b{display:inline-block;min-width:4.5rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;border-top:1px solid var(--line);padding:.2rem .6rem .2rem 0}";

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

/// The whole page.
pub(crate) fn render(document: &Value) -> String {
    let mut page = String::new();
    let (title, version) = (text(&document["info"]["title"]), text(&document["info"]["version"]));
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body><h1>{title} \
         {version}</h1><p>{}</p><p><a href=\"openapi.json\">openapi.json</a></p>",
        text(&document["info"]["description"])
    );
    for tag in elements(&document["tags"]) {
        let _ = write!(page, "<h2>{}</h2><p>{}</p>", text(&tag["name"]), text(&tag["description"]));
        for (path, item) in members(&document["paths"]) {
            for method in METHODS {
                let operation = &item[method];
                if elements(&operation["tags"]).any(|name| *name == tag["name"]) {
                    show(&mut page, document, method, path, item, operation);
                }
            }
        }
    }
    page.push_str("</body></html>");
    page
}

fn show(page: &mut String, document: &Value, method: &str, path: &str, item: &Value, operation: &Value) {
    let _ = write!(
        page,
        "<details><summary><b>{}</b> <code>{}</code> {}</summary>",
        method.to_uppercase(),
        escaped(path),
        text(&operation["summary"])
    );
    if operation["description"].is_string() {
        let _ = write!(page, "<p>{}</p>", text(&operation["description"]));
    }
    let servers: Vec<String> = elements(&item["servers"])
        .map(|server| format!("<code>{}</code> {}", text(&server["url"]), text(&server["description"])))
        .collect();
    if !servers.is_empty() {
        let _ = write!(page, "<p>At {}</p>", servers.join(", "));
    }
    let parameters: Vec<&Value> = elements(&item["parameters"])
        .chain(elements(&operation["parameters"]))
        .map(|parameter| resolved(document, parameter))
        .collect();
    if !parameters.is_empty() {
        page.push_str("<table><tr><th>Parameter</th><th>In</th><th>Meaning</th></tr>");
        for parameter in parameters {
            let _ = write!(
                page,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                text(&parameter["name"]),
                text(&parameter["in"]),
                text(&parameter["description"])
            );
        }
        page.push_str("</table>");
    }
    let body = &operation["requestBody"];
    if body.is_object() {
        let _ = write!(page, "<p>Body: {}</p>", text(&body["description"]));
    }
    page.push_str("<table><tr><th>Status</th><th>Answer</th></tr>");
    for (status, answer) in members(&operation["responses"]) {
        let answer = resolved(document, answer);
        let _ =
            write!(page, "<tr><td>{}</td><td>{}</td></tr>", escaped(status), text(&answer["description"]));
    }
    page.push_str("</table></details>");
}

/// What a `$ref` within the document points to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|reference| document.pointer(reference.strip_prefix('#')?));
    target.unwrap_or(value)
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_on_the_page_and_nothing_is_fetched() {
        let document: Value = serde_json::from_str(crate::openapi::DOCUMENT).unwrap();
        let page = render(&document);
        let mut operations = 0;
        for (path, item) in members(&document["paths"]) {
            for method in METHODS.iter().filter(|method| item[**method].is_object()) {
                let shown = format!("<b>{}</b> <code>{}</code>", method.to_uppercase(), escaped(path));
                assert!(page.contains(&shown), "{shown}");
                operations += 1;
            }
        }
        assert_eq!(page.matches("<details>").count(), operations, "each is there once");
        for loaded in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(loaded), "{loaded}");
        }
    }

    #[test]
    fn what_the_document_says_cannot_break_the_page() {
        let page =
            render(&serde_json::json!({"info": {"title": "<script>\"&", "version": "1", "description": ""}}));
        assert!(page.contains("<title>&lt;script&gt;&quot;&amp;</title>"));
    }
}
