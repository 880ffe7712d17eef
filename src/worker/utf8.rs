//! Tokens are bytes, texts are UTF-8: an incomplete code point is held back until its other bytes come.

#[derive(Default)]
pub(crate) struct Utf8Stream {
    held: Vec<u8>,
}

impl Utf8Stream {
    /// Where the bytes of the next token go, before [`take`](Self::take).
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    /// All text that is complete. Bytes that can never become UTF-8 turn into U+FFFD.
    pub(crate) fn take(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.held.clear();
                    return text;
                }
                Err(error) => {
                    let (whole, rest) = self.held.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(whole).unwrap_or_default());
                    match error.error_len() {
                        // The end of a code point is still to come.
                        None => {
                            self.held = rest.to_vec();
                            return text;
                        }
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.held = rest[bad..].to_vec();
                        }
                    }
                }
            }
        }
    }

    /// What is left at the end of a generation, as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_a_text_gives_the_same_text() {
        let text = "aé漢🦙 \0 ü";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut stream = Utf8Stream::default();
                let mut out = String::new();
                for part in [&text.as_bytes()[..first], &text.as_bytes()[first..second], &text.as_bytes()[second..]] {
                    stream.bytes().extend_from_slice(part);
                    out.push_str(&stream.take());
                }
                assert_eq!(out + &stream.finish(), text);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let mut stream = Utf8Stream::default();
        stream.bytes().extend_from_slice(b"a\xffb\xf0\x9f");
        assert_eq!(stream.take(), "a\u{fffd}b");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }
}
