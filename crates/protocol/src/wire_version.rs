//! The version of what brokers and gateways say among themselves, and the refusal of a peer that speaks another.
//!
//! Each side names the oldest and the newest version that it understands in its user agent, `evenkeel-wire/1-1`; who names
//! none speaks version 1. They go on when the ranges meet. A change that older programs would misunderstand raises
//! [`NEWEST`]; [`OLDEST`] follows one release later, so that a cluster can be upgraded broker by broker.

use tonic::{Request, Status};

/// The oldest version that this program understands.
pub const OLDEST: u32 = 1;
/// The newest version that this program understands.
pub const NEWEST: u32 = 1;

const PRODUCT: &str = "evenkeel-wire/";

/// What a client of an internal service calls itself.
#[must_use]
pub fn user_agent() -> String {
    format!("{PRODUCT}{OLDEST}-{NEWEST}")
}

/// Refuses a caller that speaks no version that this program understands: an interceptor of internal services.
///
/// # Errors
/// `FAILED_PRECONDITION`, naming both ranges and the remedy.
pub fn check(request: Request<()>) -> Result<Request<()>, Status> {
    let agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok());
    let spoken = agent.map_or(Some((1, 1)), spoken);
    match spoken {
        Some((oldest, newest)) if oldest <= NEWEST && newest >= OLDEST => Ok(request),
        Some((oldest, newest)) => Err(Status::failed_precondition(format!(
            "the caller speaks wire versions {oldest} to {newest}, this broker {OLDEST} to {NEWEST}: run releases that follow each \
             other, and upgrade the one with the older versions first"
        ))),
        None => Err(Status::invalid_argument(format!(
            "user agent {:?} does not name the wire versions as {PRODUCT}OLDEST-NEWEST",
            agent.unwrap_or_default()
        ))),
    }
}

/// The range in a user agent; version 1 where none is named, `None` where it cannot be read.
fn spoken(agent: &str) -> Option<(u32, u32)> {
    let Some(range) = agent.split_whitespace().find_map(|product| product.strip_prefix(PRODUCT)) else {
        return Some((1, 1));
    };
    let (oldest, newest) = range.split_once('-')?;
    let (oldest, newest) = (oldest.parse().ok()?, newest.parse().ok()?);
    (oldest <= newest).then_some((oldest, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(agent: &str) -> Result<(), Status> {
        let mut request = Request::new(());
        request.metadata_mut().insert("user-agent", agent.parse().unwrap());
        check(request).map(|_| ())
    }

    #[test]
    fn ranges_that_meet_are_accepted_and_others_refused_with_both() {
        for accepted in [&*user_agent(), "evenkeel-wire/1-7", "tonic/0.14", "evenkeel-wire/1-1 tonic/0.14.9"]
        {
            assert!(checked(accepted).is_ok(), "{accepted}");
        }
        assert!(check(Request::new(())).is_ok());
        let refused = checked("evenkeel-wire/8-9 tonic/0.14.9").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("8 to 9") && refused.message().contains("1 to 1"), "{refused}");
        for unreadable in
            ["evenkeel-wire/", "evenkeel-wire/2-1", "evenkeel-wire/99999999999-1", "evenkeel-wire/a-b"]
        {
            assert_eq!(checked(unreadable).unwrap_err().code(), tonic::Code::InvalidArgument, "{unreadable}");
        }
    }
}
