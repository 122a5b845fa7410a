//! How long commands wait for what they are asked to wait for.

use std::time::Duration;

/// Unless said otherwise.
pub const PATIENCE_DEFAULT: &str = "5m";
/// Nobody waits longer with one command.
const PATIENCE_MAX: Duration = Duration::from_secs(86_400);
/// Shortest pause between two pictures of `--watch`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Reads how long to wait.
pub fn patience(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(1), PATIENCE_MAX)
}

/// Reads how often to show something.
pub fn interval(text: &str) -> Result<Duration, String> {
    between(text, INTERVAL_MIN, PATIENCE_MAX)
}

fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if (least..=most).contains(&duration) => Ok(duration),
        Ok(_) => {
            Err(format!("give {} to {}", humantime::format_duration(least), humantime::format_duration(most)))
        }
        Err(error) => Err(format!("{error}; write a duration such as 500ms or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_within_their_bounds() {
        assert_eq!(patience("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(patience("2days"), Err("give 1ms to 1day".to_owned()));
        assert_eq!(interval("1ms"), Err("give 100ms to 1day".to_owned()));
        assert!(patience("soon").unwrap_err().contains("write a duration such as 500ms"));
    }
}
