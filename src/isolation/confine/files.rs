//! Landlock: which files a process may open, and that it reaches no port, no abstract socket and no other process.

use super::{ConfineError, Guard};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use std::ffi::OsString;
use std::path::PathBuf;

/// The newest that the crate knows: all rights that any kernel has are ruled, and those that this one has not are left out.
const NEWEST: ABI = ABI::V10;

/// Leaves this thread, and those it starts, the right to read these files, and no other right.
pub(super) fn only(readable: &[OsString]) -> Result<Guard, ConfineError> {
    let files = readable.iter().map(|path| {
        PathFd::new(path).map_err(|e| ConfineError::Readable { path: PathBuf::from(path), problem: e.to_string() })
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    Ok(restrict(files).unwrap_or_else(|error| Guard::Missing(error.to_string())))
}

fn restrict(files: Vec<PathFd>) -> Result<Guard, RulesetError> {
    let rules = files.into_iter().map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, AccessFs::ReadFile)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Guard::Missing("the kernel has Landlock, and was started without it".into())
        }
        (RulesetStatus::NotEnforced, _) => Guard::Missing("the kernel has no Landlock".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Guard::On(format!("abi {}", effective_abi as i32)),
        (_, other) => Guard::Missing(format!("{other:?}")),
    })
}
