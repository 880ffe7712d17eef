//! What a header must say before the model is handed to llama.cpp.
//!
//! llama.cpp takes metadata at its word: it asserts, divides and allocates by it, and a wrong number ends the process.
//! So everything that it asserts while loading, or that makes it divide by zero, loop for ever or allocate without
//! measure, is checked here. What it refuses with a plain error is left to it, unless saying so early is easy.

mod architecture;
mod graph;
mod hparams;
mod tensors;
mod vocab;

#[cfg(test)]
mod graph_tests;
#[cfg(test)]
mod tests;

pub(super) use hparams::Hparams;
pub(super) use vocab::Vocab;

use super::gguf::{Gguf, GgufError, TensorInfo, quoted};

/// Whether queries and keys of this architecture are rotated by their positions.
pub(crate) fn rotates_positions(architecture: &str) -> bool {
    architecture::Traits::of(architecture).rope
}

/// The parts of a header that were found sound.
pub(super) struct Checked {
    pub(super) hparams: Hparams,
    pub(super) vocab: Vocab,
}

/// Checks the metadata of the first part and the tensors of all parts.
pub(super) fn check(first: &Gguf, parts: &[Gguf]) -> Result<Checked, GgufError> {
    let keys = Keys::new(first, parts)?;
    let hparams = Hparams::check(&keys)?;
    architecture::check(&keys, &hparams)?;
    graph::check(&keys, &hparams)?;
    let vocab = Vocab::check(&keys)?;
    tensors::check(&keys)?;
    Ok(Checked { hparams, vocab })
}

/// Metadata lookup for one architecture, by the part of the key after the architecture's name.
struct Keys<'a> {
    /// The part with the metadata.
    gguf: &'a Gguf,
    /// All parts at hand, that one included.
    parts: &'a [Gguf],
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn new(gguf: &'a Gguf, parts: &'a [Gguf]) -> Result<Self, GgufError> {
        const KEY: &str = "general.architecture";
        let architecture = gguf.typed::<&str>(KEY)?.unwrap_or_default();
        let sound = |b: u8| b.is_ascii_graphic();
        if architecture.is_empty() || architecture.len() > 64 || !architecture.bytes().all(sound) {
            let found = match gguf.get(KEY) {
                Some(_) => quoted(architecture),
                None => "no such key".to_owned(),
            };
            return Err(gguf.fault(KEY, "the name of an architecture", found));
        }
        Ok(Self { gguf, parts, architecture })
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn has(&self, suffix: &str) -> bool {
        self.gguf.get(&self.key(suffix)).is_some()
    }

    fn u32(&self, suffix: &str) -> Result<Option<u32>, GgufError> {
        self.gguf.typed(&self.key(suffix))
    }

    /// A number within `range`, if the key is there.
    fn within(&self, suffix: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, GgufError> {
        let found = self.u32(suffix)?;
        match found {
            Some(number) if !range.contains(&number) => {
                let (least, most) = range.into_inner();
                Err(self.fault(suffix, format_args!("{least} to {most}"), number))
            }
            _ => Ok(found),
        }
    }

    /// A number within `range` that must be there.
    fn required(&self, suffix: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, GgufError> {
        let (least, most) = (*range.start(), *range.end());
        self.within(suffix, range)?
            .ok_or_else(|| self.fault(suffix, format_args!("a number from {least} to {most}"), "no such key"))
    }

    fn tensors(&self) -> impl Iterator<Item = &'a TensorInfo> {
        self.parts.iter().flat_map(|part| part.tensors())
    }

    /// Whether tensors may be in parts that are not at hand.
    fn incomplete(&self) -> bool {
        self.gguf.split().is_some_and(|split| self.parts.len() < usize::from(split.count))
    }

    fn fault(&self, suffix: &str, expected: impl ToString, found: impl ToString) -> GgufError {
        self.gguf.fault(&self.key(suffix), expected, found)
    }
}
