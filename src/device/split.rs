//! Which device holds which layers.
//!
//! llama.cpp gives each device a run of whole layers, so layer counts are the unit here. Ratios are thousandths that sum
//! to exactly 1000: equal on every machine, unlike floats. llama.cpp gets the counts themselves as its `tensor_split`,
//! from which it computes the same counts again (a test repeats its arithmetic).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

/// What a device has left for weights and KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceRoom {
    /// Index of the device.
    pub index: u32,
    /// Bytes, after compute buffers and what else is not per layer.
    pub usable_bytes: u64,
}

impl DeviceRoom {
    /// The device `index` has `usable_bytes` left.
    #[must_use]
    pub fn new(index: u32, usable_bytes: u64) -> Self {
        Self { index, usable_bytes }
    }
}

/// What one device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceShare {
    /// Index of the device.
    pub index: u32,
    /// Layers on it; the output layer counts as one.
    pub layers: u32,
    /// Bytes of those layers.
    pub required_bytes: u64,
    /// Bytes that the device has for them.
    pub available_bytes: u64,
}

/// Layers per device, in the order of the devices: the first one holds the first layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LayerSplit {
    /// One share per device, none empty.
    pub shares: Vec<DeviceShare>,
}

/// Divides layers of these sizes in bytes (weights and KV cache) over `rooms`, every device getting at least one.
///
/// `layers` are the layers on GPUs, in order, the output layer last. Without `ratios` the fullest device is as empty as
/// it can be: if any division fits, the one that is found fits. With `ratios`, layer `i` of `n` goes to the first device
/// whose cumulated ratio is above `i / n`, as in llama.cpp.
///
/// # Errors
/// `DeviceError` with the bytes per device where it does not fit; `InvalidParams` where a device would get no layer.
pub fn split_layers(rooms: &[DeviceRoom], layers: &[u64], ratios: Option<&SplitRatios>) -> Result<LayerSplit> {
    if rooms.is_empty() || rooms.len() > layers.len() {
        let problem = format!(
            "{} devices for {} layers on GPUs: every device gets at least one; name fewer devices",
            rooms.len(),
            layers.len()
        );
        return Err(Error::invalid("devices", problem));
    }
    if let Some(full) = rooms.iter().find(|room| room.usable_bytes == 0) {
        return Err(Error::device(format!(
            "GPU{} has no memory left for layers; leave it out of the devices",
            full.index
        )));
    }
    let ends = match ratios {
        Some(ratios) => ratios.ends(rooms, layers.len())?,
        None => Balance::new(rooms, layers).ends(),
    };
    let mut start = 0;
    let shares = rooms.iter().zip(ends).map(|(room, end)| {
        let range = std::mem::replace(&mut start, end)..end;
        DeviceShare {
            index: room.index,
            layers: u32::try_from(range.len()).unwrap_or(u32::MAX),
            required_bytes: sum(&layers[range]),
            available_bytes: room.usable_bytes,
        }
    });
    let split = LayerSplit { shares: shares.collect() };
    match split.fits() {
        true => Ok(split),
        false => Err(split.does_not_fit("the layers")),
    }
}

impl LayerSplit {
    /// The share of each device in thousandths of the layers.
    #[must_use]
    pub fn ratios(&self) -> SplitRatios {
        let layers: Vec<_> = self.shares.iter().map(|share| f64::from(share.layers)).collect();
        SplitRatios(thousandths(&layers))
    }

    /// llama.cpp's `tensor_split`, from which it computes exactly these layers.
    #[must_use]
    pub fn tensor_split(&self) -> Vec<f32> {
        // Counts of layers are far below 2^24, up to which f32 is exact.
        self.shares.iter().map(|share| share.layers as f32).collect()
    }

    /// The largest context within `range` with which every device holds its layers: the fullest one decides for all.
    ///
    /// `layer_bytes(layer, n_ctx)` are the bytes of a layer, weights and KV cache, and never shrink as `n_ctx` grows.
    ///
    /// # Errors
    /// `DeviceError` with the bytes per device where even the smallest context does not fit.
    pub fn largest_ctx(&self, range: RangeInclusive<u32>, layer_bytes: impl Fn(usize, u32) -> u64) -> Result<u32> {
        let at = |n_ctx| self.with_bytes(|layer| layer_bytes(layer, n_ctx));
        let (mut fits, mut above) = range.into_inner();
        if !at(fits).fits() {
            return Err(at(fits).does_not_fit(&format!("the layers with a context of {fits}")));
        }
        while fits < above {
            let middle = fits + (above - fits).div_ceil(2);
            match at(middle).fits() {
                true => fits = middle,
                false => above = middle - 1,
            }
        }
        Ok(fits)
    }

    fn with_bytes(&self, bytes: impl Fn(usize) -> u64) -> Self {
        let mut layer = 0..;
        let shares = self.shares.iter().map(|share| {
            let required = layer.by_ref().take(share.layers as usize).fold(0u64, |sum, i| sum.saturating_add(bytes(i)));
            DeviceShare { required_bytes: required, ..*share }
        });
        Self { shares: shares.collect() }
    }

    fn fits(&self) -> bool {
        self.shares.iter().all(|share| share.required_bytes <= share.available_bytes)
    }

    fn does_not_fit(self, what: &str) -> Error {
        let shares: Vec<_> = self
            .shares
            .iter()
            .map(|s| {
                let DeviceShare { index, layers, required_bytes, available_bytes } = s;
                format!("GPU{index} needs {required_bytes} bytes for {layers} layers and has {available_bytes}")
            })
            .collect();
        let problem = format!(
            "{what} do not fit: {}. Use a shorter context, a smaller KV type, fewer layers on GPUs, other devices or ratios",
            shares.join(", ")
        );
        Error::Device { problem, shares: self.shares }
    }
}

/// Parts of a whole in thousandths that sum to exactly 1000, each at least 1.
///
/// Reads any positive numbers (`3,1` or `0.6,0.4`), writes `0.750,0.250`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SplitRatios(Vec<u16>);

impl SplitRatios {
    /// The thousandths.
    #[must_use]
    pub fn thousandths(&self) -> &[u16] {
        &self.0
    }

    fn ends(&self, rooms: &[DeviceRoom], layers: usize) -> Result<Vec<usize>> {
        let invalid = |problem: String| Error::invalid("tensor_split", problem);
        if self.0.len() != rooms.len() {
            return Err(invalid(format!("{} ratios for {} devices", self.0.len(), rooms.len())));
        }
        let (mut cumulated, mut ends) = (0, vec![]);
        for (part, room) in self.0.iter().zip(rooms) {
            // Layer i of n goes here while i / n is below the cumulated ratio: the layers below ceil(ratio · n).
            cumulated += usize::from(*part);
            let end = (cumulated * layers).div_ceil(1000);
            if end == ends.last().copied().unwrap_or(0) {
                let problem = format!(
                    "{self} leaves none of {layers} layers for GPU{}; give it more or leave it out of the devices",
                    room.index
                );
                return Err(invalid(problem));
            }
            ends.push(end);
        }
        Ok(ends)
    }
}

impl FromStr for SplitRatios {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("tensor_split", problem);
        let part = |part: &str| match part.trim().parse::<f64>() {
            Ok(number) if number > 0.0 && number <= 1e15 => Ok(number),
            _ => Err(invalid(format!("{part:?} is no positive number; write ratios such as \"3,1\" or \"0.6,0.4\""))),
        };
        let parts = text.split(',').map(part).collect::<Result<Vec<_>>>()?;
        let parts = thousandths(&parts);
        match parts.contains(&0) {
            true => Err(invalid(format!("{text:?} has a part below a thousandth of the whole; leave that device out"))),
            false => Ok(Self(parts)),
        }
    }
}

impl fmt::Display for SplitRatios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|part| format!("{}.{:03}", part / 1000, part % 1000)).collect();
        f.write_str(&parts.join(","))
    }
}

impl TryFrom<String> for SplitRatios {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SplitRatios> for String {
    fn from(ratios: SplitRatios) -> Self {
        ratios.to_string()
    }
}

/// Rounds by the largest remainder, so that the sum is exactly 1000.
fn thousandths(parts: &[f64]) -> Vec<u16> {
    let whole: f64 = parts.iter().sum();
    let exact: Vec<_> = parts.iter().map(|part| part / whole * 1000.0).collect();
    let mut rounded: Vec<_> = exact.iter().map(|part| *part as u16).collect();
    let missing = 1000usize.saturating_sub(rounded.iter().map(|part| usize::from(*part)).sum());
    let mut order: Vec<_> = (0..parts.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
    order.into_iter().take(missing).for_each(|i| rounded[i] += 1);
    rounded
}

/// How full a device is, as an exact fraction.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Load {
    bytes: u64,
    room: u64,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: &Self, b: &Self| u128::from(a.bytes) * u128::from(b.room);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Finds the division whose fullest device is emptiest and, among those, whose emptiest device is fullest.
struct Balance<'a> {
    rooms: &'a [DeviceRoom],
    /// `before[i]` are the bytes of the layers before layer `i`.
    before: Vec<u64>,
}

impl<'a> Balance<'a> {
    fn new(rooms: &'a [DeviceRoom], layers: &[u64]) -> Self {
        let sums = layers.iter().scan(0u64, |sum, bytes| {
            *sum = sum.saturating_add(*bytes);
            Some(*sum)
        });
        Self { rooms, before: std::iter::once(0).chain(sums).collect() }
    }

    fn ends(&self) -> Vec<usize> {
        let (fullest, ends) =
            self.best(Load::max, |new, old| new < old, |_| true).expect("every device can get a layer");
        let even = self.best(Load::min, |new, old| new > old, |load| load <= fullest);
        even.map_or(ends, |(_, ends)| ends)
    }

    /// The best division among those whose every load is `allowed`: `worst` joins loads, `better` compares what comes out.
    fn best(
        &self,
        worst: fn(Load, Load) -> Load,
        better: fn(Load, Load) -> bool,
        allowed: impl Fn(Load) -> bool,
    ) -> Option<(Load, Vec<usize>)> {
        let n = self.before.len() - 1;
        // table[device][layers]: the best of giving the first `layers` layers to the devices up to this, and its last start.
        let mut table: Vec<Vec<Option<(Load, usize)>>> = vec![];
        for device in 0..self.rooms.len() {
            let mut row = vec![None; n + 1];
            for (end, cell) in row.iter_mut().enumerate() {
                for start in device..end {
                    let load = self.load(device, start..end);
                    let joined = match table.last().map(|previous| previous[start]) {
                        None if start == 0 => Some(load),
                        Some(Some((before, _))) => Some(worst(before, load)),
                        _ => None,
                    };
                    if let Some(joined) = joined.filter(|_| allowed(load))
                        && cell.is_none_or(|(best, _)| better(joined, best))
                    {
                        *cell = Some((joined, start));
                    }
                }
            }
            table.push(row);
        }
        let (best, _) = table.last()?[n]?;
        let mut ends = vec![n];
        for row in table.iter().skip(1).rev() {
            ends.push(row[*ends.last()?]?.1);
        }
        ends.reverse();
        Some((best, ends))
    }

    fn load(&self, device: usize, layers: Range<usize>) -> Load {
        Load { bytes: self.before[layers.end] - self.before[layers.start], room: self.rooms[device].usable_bytes }
    }
}

fn sum(bytes: &[u64]) -> u64 {
    bytes.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
}

#[cfg(test)]
mod tests;
