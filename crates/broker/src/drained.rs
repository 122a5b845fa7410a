//! Whether this broker is to lead nothing, because an operator has drained it.
//!
//! Remembered in the data folder, so that a restarted broker does not take leaderships back before a gateway can tell it.
//! A drained broker stands for election after everybody else: it still leads when nobody else can.

use std::io;
use std::sync::Arc;

use evenkeel_raft_storage::{DataDirectory, Offload};
use tokio::sync::Mutex;

use crate::elector::{Elector, Yields};
use crate::status::StatusHub;

/// Cheap handle.
#[derive(Clone)]
pub struct Drained(Arc<Inner>);

struct Inner {
    data: Arc<DataDirectory>,
    offload: Offload,
    elector: Elector,
    status: StatusHub,
    /// One change at a time, so that what is remembered and what is done agree.
    changing: Mutex<()>,
}

impl Drained {
    /// As it was when the broker ran last.
    pub fn remembered(
        data: Arc<DataDirectory>,
        offload: Offload,
        elector: Elector,
        status: StatusHub,
    ) -> Result<Self, io::Error> {
        let drained = data.is_drained()?;
        let this = Self(Arc::new(Inner { data, offload, elector, status, changing: Mutex::new(()) }));
        if drained {
            tracing::info!("this broker is drained: it stands for election only where nobody else does");
            this.take_effect(true);
        }
        Ok(this)
    }

    /// From now on, and durably.
    pub async fn set(&self, drained: bool) -> io::Result<()> {
        let _one_at_a_time = self.0.changing.lock().await;
        let data = Arc::clone(&self.0.data);
        self.0.offload.run(move || data.set_drained(drained)).await??;
        tracing::info!(drained, "told by a gateway whether to lead nothing");
        self.take_effect(drained);
        Ok(())
    }

    fn take_effect(&self, drained: bool) {
        self.0.elector.yields(Yields::Drained, drained);
        self.0.status.set_drained(drained);
    }
}
