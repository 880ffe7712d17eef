//! [`Lease`]: a promise to a session that the pool stays while it lasts.

use super::gate::Entry;
use super::pool::Pool;
use crate::error::{Rejected, Result};
use crate::request::Request;
use crate::status::Status;
use crate::stream::TokenStream;
use std::sync::Arc;

/// For a session or a connection that will submit several requests: as long as it lives, a
/// [`drain`](super::Supervisor::drain) waits for it, until the drain's deadline, and [`submit`](Self::submit) goes on being
/// accepted meanwhile. It holds no slot and no place in the queue, and requests need none.
///
/// Dropping it gives it back. It may outlive its supervisor, and stays over a [reload](super::Supervisor::reload).
#[must_use = "dropping a lease gives it back"]
pub struct Lease {
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(pool: &Arc<Pool>) -> Result<Self> {
        pool.check_process()?;
        match pool.common.gate.enter() {
            Ok(()) => Ok(Self { pool: pool.clone() }),
            Err(Entry::Draining) => Err(draining().into()),
            Err(_) => Err(pool.current().unavailable()),
        }
    }

    /// As [`Supervisor::submit`](super::Supervisor::submit), and accepted while the supervisor drains, too.
    ///
    /// # Errors
    /// As there.
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        self.pool.submit(request, true)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // In a forked child the lock may be held, for ever, by a thread that does not exist there.
        if self.pool.check_process().is_ok() {
            self.pool.common.gate.leave();
        }
    }
}

/// What leases and requests are refused with while the supervisor drains. To be tried again: in another pool now, in this
/// one once somebody has started it again, and nobody knows here when that will be.
pub(super) fn draining() -> Rejected {
    let message = "the supervisor drains and takes nothing new; submit to another one, or once it was started again";
    Rejected::new(Status::Draining, "drain", message)
}
