//! `POST /actuator/rebalance` on the monitoring port, as Zeebe's operators ask for a rebalance: the demo does it their
//! way. Its answer is always 200 without a body, so the `Rebalance-Status` and `Location` headers tell what happened.

use crate::cluster::cluster_api::run_id;
use crate::cluster::http::{Answer, Http, join};
use crate::output::outcome::{EXIT_AUTH, Failure};

pub const REBALANCE_PATH: &str = "/actuator/rebalance";

/// What the actuator's headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// This run.
    Started(u64),
    /// The status, whatever it is.
    NotStarted(String),
}

/// Asks for a rebalance.
pub async fn rebalance(http: &Http, monitoring: &str) -> Result<Accepted, Failure> {
    let answer = http.post(&join(monitoring, REBALANCE_PATH), None).await?;
    if matches!(answer.status.as_u16(), 401 | 403) {
        return Err(Failure::new(
            EXIT_AUTH,
            format!("{monitoring} answers {}; give a token with --token-file", answer.status),
        ));
    }
    if !answer.status.is_success() {
        let message = format!("{monitoring} answers {}; is that a gateway's monitoring port?", answer.status);
        return Err(Failure::unreachable(message));
    }
    Ok(accepted(&answer))
}

fn accepted(answer: &Answer) -> Accepted {
    let run = answer.header("location").and_then(run_id);
    match (answer.header("rebalance-status"), run) {
        (Some("started"), Some(id)) => Accepted::Started(id),
        (status, _) => Accepted::NotStarted(status.unwrap_or("unknown").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, StatusCode};

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        Answer { status: StatusCode::OK, headers: map, body: Default::default() }
    }

    #[test]
    fn headers_tell_what_became_of_the_request() {
        let at = "/cluster/v2/rebalance/7";
        let not = |status: &str| Accepted::NotStarted(status.to_owned());
        let table = [
            (answer(&[("rebalance-status", "started"), ("location", at)]), Accepted::Started(7)),
            (answer(&[("rebalance-status", "running"), ("location", at)]), not("running")),
            (answer(&[("rebalance-status", "noop")]), not("noop")),
            (answer(&[]), not("unknown")),
        ];
        for (answer, expected) in table {
            assert_eq!(accepted(&answer), expected);
        }
    }
}
