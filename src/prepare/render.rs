//! Plans and reports as text for people.

use super::memory::{MemoryPlan, PlacePlan};
use super::preflight::{CheckStatus, Preflight};
use super::steps::Plan;
use std::fmt;

/// Characters of a bar that is full.
const BAR: u64 = 32;

/// Bytes in the largest unit of which there is at least one, with two or three digits that say something.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut amount = n as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    let digits = if amount < 10.0 { 2 } else { usize::from(amount < 100.0) };
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// `part` of `whole` as blocks; something that is there is never nothing.
fn bar(part: u64, whole: u64) -> String {
    let filled = u128::from(part) * u128::from(BAR) / u128::from(whole.max(1));
    let filled = u64::try_from(filled).unwrap_or(BAR).clamp(u64::from(part > 0), BAR);
    (0..BAR).map(|i| if i < filled { '█' } else { '·' }).collect()
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in self.places.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            fmt_place(place, f)?;
        }
        for estimate in &self.estimates {
            write!(f, "\nestimated: {estimate}")?;
        }
        Ok(())
    }
}

fn fmt_place(place: &PlacePlan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let rows = [
        ("weights, mapped", place.weights_mapped),
        ("weights", place.weights),
        ("cache", place.cache),
        ("compute", place.compute),
        ("output", place.output),
        ("overhead (est.)", place.overhead),
    ];
    let whole = place.total();
    match place.capacity {
        Some(capacity) => writeln!(f, "{}: {} of {}", place.place, bytes(whole), bytes(capacity))?,
        None => writeln!(f, "{}: {}", place.place, bytes(whole))?,
    }
    for (name, part) in rows.into_iter().filter(|&(_, part)| part > 0) {
        writeln!(f, "  {name:16} {:>9}  {}", bytes(part), bar(part, whole))?;
    }
    let scale = place.capacity.unwrap_or(whole);
    write!(f, "  {:16} {:>9}  {}", "in all", bytes(whole), bar(whole, scale))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:2}. {:14} {}", number + 1, step.kind, step.detail)?;
        }
        write!(f, "\n{}", self.engine.memory())
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, check) in self.checks.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let status = match check.status {
                CheckStatus::Pass => "pass",
                CheckStatus::Warn => "WARN",
                CheckStatus::Fail => "FAIL",
            };
            write!(f, "{status}  {:14} {}", check.name, check.message)?;
            if let Some(remedy) = &check.remedy {
                write!(f, "\n      {:14} -> {remedy}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_right() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (98_362_432, "93.8 MiB"),
            (40_000_000_000, "37.3 GiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn bars_show_what_is_there() {
        assert_eq!(bar(0, 10).chars().filter(|&c| c == '█').count(), 0);
        assert_eq!(bar(1, 1 << 40).chars().filter(|&c| c == '█').count(), 1);
        assert_eq!(bar(5, 10).chars().filter(|&c| c == '█').count(), 16);
        assert_eq!(bar(u64::MAX, 1).chars().filter(|&c| c == '█').count(), 32);
        assert_eq!(bar(1, 0).chars().count(), 32);
    }
}
