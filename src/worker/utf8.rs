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

    /// Moves all text that is complete to the end of `text`. Bytes that can never become UTF-8 turn into U+FFFD.
    pub(crate) fn take(&mut self, text: &mut String) {
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.held.clear();
                    return;
                }
                Err(error) => {
                    let whole = &self.held[..error.valid_up_to()];
                    text.push_str(std::str::from_utf8(whole).unwrap_or_default());
                    let rest = error.valid_up_to();
                    let Some(bad) = error.error_len() else {
                        // The end of a code point is still to come.
                        self.held.drain(..rest);
                        return;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.held.drain(..rest + bad);
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
                    stream.take(&mut out);
                }
                assert_eq!(out + &stream.finish(), text);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let mut stream = Utf8Stream::default();
        stream.bytes().extend_from_slice(b"a\xffb\xf0\x9f");
        let mut out = String::new();
        stream.take(&mut out);
        assert_eq!(out, "a\u{fffd}b");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }
}
