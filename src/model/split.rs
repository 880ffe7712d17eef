//! How the files of a split model are named.

use std::fmt;

/// The suffix by which llama.cpp finds the other parts of a split model: `-00001-of-00003.gguf`.
///
/// It is a part's *name* that counts: a link may lead anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SplitName<'a> {
    /// What all parts have in common, not empty.
    pub prefix: &'a str,
    /// Number of parts, at least 1.
    pub count: u16,
    /// Which part it is, from 1.
    pub number: u16,
}

impl<'a> SplitName<'a> {
    /// Takes a file name apart, if llama.cpp would write it just so for a part of a split model.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let split = Self { prefix, number: number.parse().ok()?, count: count.parse().ok()? };
        // Writing it again sees to the number of digits, signs and leading zeros.
        let valid = !prefix.is_empty() && (1..=split.count).contains(&split.number) && split.to_string() == name;
        valid.then_some(split)
    }

    /// Names of all parts, in order.
    pub(super) fn names(self) -> impl Iterator<Item = String> {
        (1..=self.count).map(move |number| Self { number, ..self }.to_string())
    }

    /// A shell pattern for the names of all parts.
    pub(super) fn pattern(self) -> String {
        format!("{}-*-of-{:05}.gguf", self.prefix, self.count)
    }
}

impl fmt::Display for SplitName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}-of-{:05}.gguf", self.prefix, self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_counts() {
        let split = SplitName::parse("a-of-b-00002-of-00003.gguf").unwrap();
        assert_eq!(split, SplitName { prefix: "a-of-b", count: 3, number: 2 });
        assert_eq!(
            split.names().collect::<Vec<_>>(),
            ["a-of-b-00001-of-00003.gguf", "a-of-b-00002-of-00003.gguf", "a-of-b-00003-of-00003.gguf"]
        );
        assert!(SplitName::parse("a-00001-of-00001.gguf").is_some());
        assert!(SplitName::parse("a-65535-of-65535.gguf").is_some());
        for name in [
            "a.gguf",
            "a-1-of-2.gguf",
            "a-00000-of-00002.gguf",
            "a-00003-of-00002.gguf",
            "a-00001-of-65536.gguf",
            "a-000001-of-000002.gguf",
            "a-+0001-of-00002.gguf",
            "-00001-of-00002.gguf",
            "a-00001-of-00002.GGUF",
            "a-00001-of-00002",
            "a-00001-of-00002.gguf.part",
        ] {
            assert_eq!(SplitName::parse(name), None, "{name}");
        }
    }
}
