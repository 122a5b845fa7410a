//! What a query says, for routes that take little of it.

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value};

use crate::problem_with;

/// Whether `NAME=true`; not when it is missing. The refusal of anything else is large, hence the box.
///
/// # Errors
/// The answer to a request that says something else than `true` or `false`, or says it twice.
pub fn switch(uri: &Uri, name: &str) -> Result<bool, Box<Response>> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| match pair.split_once('=') {
        Some((found, value)) => (found == name).then_some(value),
        None => (pair == name).then_some(""),
    });
    let given: Vec<&str> = pairs.collect();
    match given[..] {
        [] | ["false"] => Ok(false),
        ["true"] => Ok(true),
        _ => {
            let detail =
                format!("{name} = {:?} is no switch; write ?{name}=true, or leave it out", given.join(", "));
            let reason = Map::from_iter([("reason".to_owned(), Value::from("BAD_PARAMETER"))]);
            Err(Box::new(problem_with(StatusCode::BAD_REQUEST, uri, detail, reason)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_true_or_false_and_given_once() {
        let of = |query: &str| switch(&format!("/a{query}").parse().unwrap(), "soft").map_err(|_| ());
        assert_eq!([of(""), of("?soft=false"), of("?other=1")], [Ok(false); 3]);
        assert_eq!(of("?other&soft=true"), Ok(true));
        assert_eq!([of("?soft"), of("?soft=1"), of("?soft=true&soft=true")], [Err(()); 3]);
    }
}
