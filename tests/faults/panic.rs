//! Panics of Rust.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

#[test]
fn in_the_workers_loop() {
    Case::new(Fault::Panic, "injected panic", CrashReason::Panic, Bare::Contained).show(this_test!());
}
