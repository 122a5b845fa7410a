//! Health in the shape of Spring's actuator: a status, its components, and 503 when one of them is down.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The groups below `/actuator/health`; each has a path of its own.
pub const GROUPS: [&str; 3] = ["liveness", "readiness", "startup"];

/// What there is to tell; up when all components are.
#[derive(Clone, Debug, Default)]
pub struct Health {
    components: BTreeMap<&'static str, (bool, Value)>,
    is_root: bool,
}

impl Health {
    /// One group.
    #[must_use]
    pub fn group() -> Self {
        Self::default()
    }

    /// The whole, which names the groups as well.
    #[must_use]
    pub fn root() -> Self {
        Self { is_root: true, ..Self::default() }
    }

    /// Adds a component; `details` is an object.
    #[must_use]
    pub fn with(mut self, name: &'static str, up: bool, details: Value) -> Self {
        self.components.insert(name, (up, details));
        self
    }

    /// Whether every component is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.components.values().all(|(up, _)| *up)
    }

    fn body(&self) -> Value {
        let component = |(name, (up, details)): (&&'static str, &(bool, Value))| {
            ((*name).to_owned(), json!({ "status": status(*up), "details": details }))
        };
        let components: serde_json::Map<_, _> = self.components.iter().map(component).collect();
        let mut body = json!({ "status": status(self.is_up()), "components": components });
        if self.is_root {
            body["groups"] = json!(GROUPS);
        }
        body
    }
}

fn status(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        let code = if self.is_up() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Json(self.body())).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_that_is_down_makes_the_whole_down() {
        let health = Health::root().with("log", true, json!({ "replayed": true }));
        assert_eq!(
            health.body(),
            json!({
                "status": "UP",
                "components": { "log": { "status": "UP", "details": { "replayed": true } } },
                "groups": ["liveness", "readiness", "startup"],
            })
        );
        assert_eq!(health.clone().into_response().status(), StatusCode::OK);
        let health = health.with("replicas", false, json!({ "dead": 1 }));
        assert_eq!(health.body()["status"], "DOWN");
        assert_eq!(health.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(Health::group().is_up() && Health::group().body().get("groups").is_none());
    }
}
