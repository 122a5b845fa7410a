//! Shows what the system group holds as metrics: whether ownership is paused, and whether a rebalance is under way.
//!
//! Every gateway shows it, whichever of them did it; an alert about what was forgotten must not depend on the one that
//! was asked.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metric_definitions;
use crate::rebalance_runner::Rebalancer;
use crate::system_store::{SystemStore, SystemStoreError};
use crate::topology::SharedTopology;

/// No longer than between two scrapes, or a pause would be seen late.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Looks until the gateway stops. Without the system group the gauges keep what they showed last.
pub(crate) async fn run(
    store: SystemStore,
    rebalancer: Rebalancer,
    topology: watch::Receiver<SharedTopology>,
    stopping: CancellationToken,
) {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut topology = topology;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = look.tick() => {}
        }
        // Led or not, it is asked only where somebody can answer.
        let led = topology.wait_for(|view| view.system.as_ref().is_some_and(|group| group.leader.is_some()));
        tokio::select! {
            () = stopping.cancelled() => return,
            led = led => if led.is_err() { return },
        }
        if let Err(error) = show(&store, &rebalancer).await {
            tracing::debug!("metrics about the system group are older than they seem: {error}");
        }
    }
}

async fn show(store: &SystemStore, rebalancer: &Rebalancer) -> Result<(), SystemStoreError> {
    metric_definitions::ownership_paused(store.ownership().await?.paused);
    metric_definitions::rebalance_active(rebalancer.active_id().await?.is_some());
    Ok(())
}
