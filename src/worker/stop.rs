//! Stop strings: text that may be the beginning of one is held back until that is decided.

/// What is known after a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// What the consumer may have: the text up to the stop string, or to where one may begin.
    pub text: String,
    /// The stop string that is complete: of several the first to be so, and of those the longest.
    pub stop: Option<usize>,
}

/// Takes out of `held` what may be given. Its first `old` bytes were there before, and complete no stop string. How the
/// text is divided among the calls changes nothing in the sum. No stop string is empty.
pub(crate) fn release(stops: &[String], held: &mut String, old: usize) -> Released {
    if stops.is_empty() {
        return Released { text: std::mem::take(held), stop: None };
    }
    let bytes = held.as_bytes();
    for end in old + 1..=bytes.len() {
        let ends_here = |(_, stop): &(usize, &String)| bytes[..end].ends_with(stop.as_bytes());
        let longest = stops.iter().enumerate().filter(ends_here).max_by_key(|(_, stop)| stop.len());
        if let Some((index, stop)) = longest {
            let text = held[..end - stop.len()].to_owned();
            held.clear();
            return Released { text, stop: Some(index) };
        }
    }
    let may_begin = |at: &usize| stops.iter().any(|stop| stop.as_bytes().starts_with(&bytes[*at..]));
    let longest = stops.iter().map(String::len).max().unwrap_or(0);
    let from = bytes.len().saturating_sub(longest);
    let safe = (from..bytes.len()).find(may_begin).unwrap_or(bytes.len());
    Released { text: held.drain(..safe).collect(), stop: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: the shortest beginning of the text that ends with a stop string, without the longest such.
    fn reference(text: &str, stops: &[String]) -> (String, Option<String>) {
        for end in 1..=text.len() {
            let mut found: Vec<_> = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes())).collect();
            found.sort_by_key(|s| s.len());
            if let Some(stop) = found.pop() {
                return (text[..end - stop.len()].into(), Some(stop.clone()));
            }
        }
        (text.into(), None)
    }

    /// The text in pieces that begin at `cuts`, with what was given before the end and what was held back at it.
    fn pieces(text: &str, cuts: &[usize], stops: &[String]) -> (String, String, Option<String>) {
        let (mut given, mut held, mut from) = (String::new(), String::new(), 0);
        for to in cuts.iter().copied().chain([text.len()]) {
            let old = held.len();
            held.push_str(&text[from..to]);
            from = to;
            let Released { text, stop } = release(stops, &mut held, old);
            given.push_str(&text);
            if let Some(stop) = stop {
                assert!(held.is_empty());
                return (given, held, Some(stops[stop].clone()));
            }
        }
        (given, held, None)
    }

    #[test]
    fn what_cannot_be_a_stop_string_is_not_held_back() {
        let stops = ["</end>".to_owned(), "\n\n".to_owned()];
        for (text, given, held) in
            [("a < b", "a < b", ""), ("a </en", "a ", "</en"), ("a\n", "a", "\n"), ("</enx", "</enx", "")]
        {
            assert_eq!(pieces(text, &[], &stops), (given.into(), held.into(), None), "{text:?}");
        }
        assert_eq!(pieces("abc", &[], &[]), ("abc".into(), String::new(), None));
    }

    #[test]
    fn the_first_to_be_complete_and_of_those_the_longest() {
        let stops = ["bcd".to_owned(), "c".to_owned(), "bc".to_owned()];
        assert_eq!(pieces("abcd", &[], &stops), ("a".into(), String::new(), Some("bc".into())));
    }

    proptest! {
        // An alphabet of three makes overlaps, repeated beginnings and code points of several bytes likely.
        #[test]
        fn every_division_of_a_text_gives_the_same(
            text in "[abé]{0,12}", stops in proptest::collection::vec("[abé]{1,4}", 0..4)
        ) {
            let (expected, stop) = reference(&text, &stops);
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
            for mask in 0..1u32 << places.len() {
                let cuts: Vec<usize> = (0..places.len()).filter(|i| mask >> i & 1 == 1).map(|i| places[i]).collect();
                let (given, held, found) = pieces(&text, &cuts, &stops);
                prop_assert_eq!(&found, &stop);
                // What is held back at the end can still become a stop string: no more than that.
                prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(&held) && *s != held));
                prop_assert_eq!(given + &held, expected.as_str(), "{:?}", cuts);
            }
        }
    }
}
