//! How a broken stream is taken up again: with pauses, for as long as the client has patience.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::backoff::Backoff;
use crate::error::{ClientError, Retry, retry_advice};

/// The interruption of one stream; forget it when the stream delivers again.
#[derive(Debug)]
pub(crate) struct Resumption {
    call: &'static str,
    patience: Duration,
    backoff: Backoff,
    broken_since: Option<Instant>,
    attempts: u32,
}

impl Resumption {
    pub(crate) fn new(call: &'static str, patience: Duration) -> Self {
        Self { call, patience, backoff: Backoff::default(), broken_since: None, attempts: 0 }
    }

    /// Returns when the stream may be opened again after it ended with `status`.
    ///
    /// # Errors
    /// `Refused` when another attempt cannot help, `DeadlineExceeded` when patience is over.
    pub(crate) async fn pause_after(&mut self, status: &Status) -> Result<(), ClientError> {
        self.attempts += 1;
        let Retry::After(asked) = retry_advice(status) else {
            return Err(ClientError::refused(self.call, status));
        };
        if self.broken_since.get_or_insert_with(Instant::now).elapsed() > self.patience {
            return Err(ClientError::DeadlineExceeded {
                call: self.call,
                timeout: self.patience,
                attempts: self.attempts,
                last: format!("{:?}: {}", status.code(), status.message()),
            });
        }
        tokio::time::sleep(self.backoff.next_delay(rand::random(), asked)).await;
        Ok(())
    }
}
