//! How a process reaches others: over the network, or as a simulation has it.

use std::fmt;
use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};

/// Makes connections to endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Dialer(Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>);

impl Dialer {
    /// Over TCP.
    #[must_use]
    pub fn network() -> Self {
        Self::new(|endpoint| endpoint.connect_lazy())
    }

    /// In any way; the channel must not be awaited for.
    pub fn new(connect: impl Fn(Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    /// A channel that connects when it is first used, and again whenever it broke.
    #[must_use]
    pub fn channel(&self, endpoint: Endpoint) -> Channel {
        (self.0)(endpoint)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
