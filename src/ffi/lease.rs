//! Leases.

use super::border::{free, give, guard, object, text};
use super::error::llamapen_error;
use super::request::llamapen_request;
use super::supervisor::llamapen_supervisor;
use crate::request::Request;
use crate::supervisor::Lease;
use std::ffi::c_char;

/// For a session or a connection that will submit several requests: until it is freed, a drain waits for it, up to the
/// drain's deadline, and llamapen_lease_submit goes on being accepted meanwhile. Requests need none. It may outlive its
/// supervisor.
#[allow(non_camel_case_types)]
pub struct llamapen_lease {
    lease: Lease,
}

/// Takes a lease, to be given back with llamapen_lease_free.
/// Errors: DRAINING, POOL_UNAVAILABLE (stopped, or gave up).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_lease_acquire(
    supervisor: *const llamapen_supervisor,
    lease: *mut *mut llamapen_lease,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let supervisor = unsafe { object("supervisor", supervisor) }?;
        Ok(llamapen_lease { lease: supervisor.supervisor.lease()? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("lease", lease, make)) }
}

/// As llamapen_submit, and accepted while the supervisor drains, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_lease_submit(
    lease: *const llamapen_lease,
    request: *const c_char,
    request_len: usize,
    handle: *mut *mut llamapen_request,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, the lease is NULL or live, as the header demands.
        let (json, lease) = unsafe { (text("request", request, request_len)?, object("lease", lease)?) };
        Ok(llamapen_request::new(lease.lease.submit(Request::from_json(json)?)?))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("handle", handle, make)) }
}

/// Gives a lease back; before or after its supervisor is freed. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_lease_free(lease: *mut llamapen_lease) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(lease) }
}
