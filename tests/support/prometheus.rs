//! A strict reader of Prometheus' text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

/// Reads all samples, and panics where the text is not as the format wants it.
pub fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut samples, mut families, mut series) = (Vec::<Sample>::new(), BTreeSet::new(), BTreeSet::new());
    let (mut family, mut kind, mut help) = (String::new(), String::new(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect(line);
            assert!(!text.is_empty() && name_is_valid(name, true), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect(line);
            assert_eq!(help.take().as_deref(), Some(name), "HELP comes right before TYPE: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            (family, kind) = (name.to_owned(), of.to_owned());
        } else {
            let sample = sample(line);
            let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is outside its family"));
            let allowed: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line} in a {kind}");
            assert!(series.insert((sample.name.clone(), sample.labels.clone())), "{line} comes twice");
            assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
            samples.push(sample);
        }
    }
    assert!(help.is_none(), "a HELP without its TYPE");
    histograms(&samples);
    samples
}

/// Buckets rise up to `+Inf`, which is the count.
fn histograms(samples: &[Sample]) {
    let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|s| s.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").expect("a bucket has its bound");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        let name = sample.name.trim_end_matches("_bucket").to_owned();
        buckets.entry((name, labels)).or_default().push((bound, sample.value));
    }
    for ((name, labels), buckets) in buckets {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        let of = |what: &str| {
            let full = format!("{name}_{what}");
            samples.iter().find(|s| s.name == full && s.labels == labels).unwrap_or_else(|| panic!("no {full}")).value
        };
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, of("count")), "{name}");
        assert!(of("sum") >= 0.0);
    }
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_once('{').expect(line);
    assert!(name_is_valid(name, true), "{line}");
    let (mut labels, mut rest) = (Labels::new(), rest);
    loop {
        let (label, after) = rest.split_once("=\"").expect(line);
        assert!(name_is_valid(label, false), "{line}");
        let (mut value, mut chars) = (String::new(), after.chars());
        loop {
            match chars.next().expect(line) {
                '"' => break,
                '\\' => value.push(match chars.next() {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("\\{other:?} in {line}"),
                }),
                c => value.push(c),
            }
        }
        assert!(labels.insert(label.to_owned(), value).is_none(), "{label} comes twice: {line}");
        match chars.next() {
            Some(',') => rest = chars.as_str(),
            Some('}') => {
                let value = chars.as_str().strip_prefix(' ').expect(line).parse().expect(line);
                return Sample { name: name.to_owned(), labels, value };
            }
            other => panic!("{other:?} after a label: {line}"),
        }
    }
}

fn name_is_valid(name: &str, colon: bool) -> bool {
    let good = |(i, c): (usize, char)| {
        c.is_ascii_alphabetic() || c == '_' || (i > 0 && c.is_ascii_digit()) || (colon && c == ':')
    };
    !name.is_empty() && name.chars().enumerate().all(good)
}
