//! The vocabulary: what llama.cpp's tokenizers assert, or loop on.

use super::Keys;
use crate::model::gguf::{Array, Gguf, GgufError, StringArray, Value, quoted};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const SEPARATOR: &str = "tokenizer.ggml.seperator_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// More dummy tokens than this would only fill memory; the largest real vocabularies have a quarter million.
const MAX_TOKENS: u32 = 1 << 24;
/// The token type of a single byte.
const BYTE: i32 = 6;

/// What is known of a vocabulary found sound.
pub(in crate::model) struct Vocab {
    pub(in crate::model) model: String,
    pub(in crate::model) pre: Option<String>,
    pub(in crate::model) n_tokens: u32,
    pub(in crate::model) longest_bytes: u32,
    pub(in crate::model) bos: Option<u32>,
    pub(in crate::model) eos: Option<u32>,
    pub(in crate::model) add_bos: Option<bool>,
}

impl Vocab {
    pub(super) fn check(keys: &Keys<'_>) -> Result<Self, GgufError> {
        let gguf = keys.gguf;
        let Some(model) = gguf.typed::<&str>(MODEL)? else {
            return Err(gguf.fault(MODEL, "the name of a tokenizer", "no such key"));
        };
        let pre = gguf.typed::<&str>("tokenizer.ggml.pre")?;
        let stated_size = keys.within("vocab_size", 0..=MAX_TOKENS)?;

        let none = StringArray::default();
        let tokens = gguf.typed::<&StringArray>(TOKENS)?;
        let without = matches!(model, "no_vocab" | "none");
        if tokens.is_none_or(StringArray::is_empty) && !without {
            return Err(gguf.fault(TOKENS, "at least one token", "none"));
        }
        let tokens = tokens.unwrap_or(&none);
        if tokens.len() > MAX_TOKENS as usize {
            let expected = format_args!("at most {MAX_TOKENS} tokens").to_string();
            return Err(gguf.fault(TOKENS, expected, tokens.len()));
        }
        let n_tokens = if without { stated_size.unwrap_or(0) } else { tokens.len() as u32 };

        if !without {
            refuse_duplicates(gguf, tokens)?;
            scores(gguf, tokens.len())?;
            types(gguf, tokens.len(), model)?;
            if model == "rwkv" {
                refuse_endless_matching(gguf, tokens)?;
            }
        }
        let known =
            |key: &str| -> Result<Option<u32>, GgufError> { Ok(gguf.typed::<u32>(key)?.filter(|&id| id < n_tokens)) };
        let vocab = Self {
            model: model.to_owned(),
            pre: pre.map(str::to_owned),
            n_tokens,
            longest_bytes: tokens.longest_bytes() as u32,
            bos: known(BOS)?,
            eos: known(EOS)?,
            add_bos: gguf.typed(ADD_BOS)?,
        };
        vocab.added_tokens(gguf, known(SEPARATOR)?)?;
        Ok(vocab)
    }

    /// llama.cpp asserts, when it tokenizes with special tokens, that those it adds exist.
    fn added_tokens(&self, gguf: &Gguf, separator: Option<u32>) -> Result<(), GgufError> {
        // Token ids that llama.cpp assumes when the file names none, and what it adds by default.
        let (bos, eos, add_bos, add_eos) = match self.model.as_str() {
            "llama" => (Some(1), Some(2), true, false),
            "bert" => (Some(101), None, true, false),
            "gpt2" | "hybriddna" | "whitespace" => {
                let begins = matches!(
                    self.pre.as_deref(),
                    Some(
                        "llama3"
                            | "llama-v3"
                            | "llama-bpe"
                            | "falcon3"
                            | "falcon-h1"
                            | "pixtral"
                            | "midm-2.0"
                            | "lfm2"
                            | "jina-v5-nano"
                            | "gemma4"
                            | "tekken"
                            | "chameleon"
                    )
                );
                let nothing = matches!(self.pre.as_deref(), Some("chatglm-bpe" | "glm4" | "glm5"));
                (Some(11).filter(|_| !nothing), Some(11), begins, false)
            }
            "t5" => (None, Some(1), false, true),
            "plamo2" => (Some(1), Some(2), false, false),
            "gemma4" => (None, None, true, false),
            _ => return Ok(()),
        };
        let wordpiece = self.model == "bert";
        let add_bos = wordpiece || self.add_bos.unwrap_or(add_bos);
        let add_eos = !wordpiece && gguf.typed::<bool>(ADD_EOS)?.unwrap_or(add_eos);
        let separator = separator.or(Some(102));
        let needed =
            [(add_bos, self.bos.or(bos), BOS), (add_eos, self.eos.or(eos), EOS), (wordpiece, separator, SEPARATOR)];
        for (added, id, key) in needed {
            if added && id.is_none_or(|id| id >= self.n_tokens) {
                let expected = format_args!("one of {} tokens, as it is added to prompts", self.n_tokens);
                let found = match gguf.typed::<u32>(key)? {
                    Some(id) => id.to_string(),
                    None => "no such key".to_owned(),
                };
                return Err(gguf.fault(key, expected, found));
            }
        }
        Ok(())
    }
}

/// llama.cpp asserts that no two tokens are equal. It reads them as C strings and gives empty ones a name, and so does
/// this comparison.
fn refuse_duplicates(gguf: &Gguf, tokens: &StringArray) -> Result<(), GgufError> {
    let mut empty = Vec::new();
    let mut texts: Vec<&str> = Vec::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        match token.split('\0').next() {
            Some(text) if !text.is_empty() => texts.push(text),
            _ => empty.push(format!("[EMPTY_{id}]")),
        }
    }
    texts.extend(empty.iter().map(String::as_str));
    texts.sort_unstable();
    match texts.iter().zip(texts.iter().skip(1)).find(|(a, b)| a == b) {
        None => Ok(()),
        Some((token, _)) => {
            let found = format_args!("{} more than once", quoted(token)).to_string();
            Err(gguf.fault(TOKENS, "distinct tokens", found))
        }
    }
}

fn scores(gguf: &Gguf, n_tokens: usize) -> Result<(), GgufError> {
    let (count, nan) = match gguf.get(SCORES) {
        None => return Ok(()),
        Some(Value::Array(Array::F32(scores))) => (scores.len(), scores.iter().any(|score| score.is_nan())),
        Some(Value::Array(Array::I32(scores))) => (scores.len(), false),
        Some(other) => return Err(gguf.fault(SCORES, "arr[f32] or arr[i32]", other.type_name())),
    };
    if nan {
        // Tokenizers order candidates by score; an order with NaN in it is none.
        return Err(gguf.fault(SCORES, "numbers", "NaN"));
    }
    enough(gguf, SCORES, count, n_tokens)
}

fn types(gguf: &Gguf, n_tokens: usize, model: &str) -> Result<(), GgufError> {
    let Some(types) = gguf.typed::<&[i32]>(TYPES)? else {
        return Ok(());
    };
    if model == "bert" && types.contains(&BYTE) {
        return Err(gguf.fault(TYPES, "no byte tokens in a WordPiece vocabulary", "some"));
    }
    enough(gguf, TYPES, types.len(), n_tokens)
}

fn enough(gguf: &Gguf, key: &str, found: usize, n_tokens: usize) -> Result<(), GgufError> {
    if found < n_tokens {
        let expected = format_args!("one for each of {n_tokens} tokens").to_string();
        return Err(gguf.fault(key, expected, found));
    }
    Ok(())
}

/// The RWKV tokenizer matches greedily and, where a token's first bytes match but no token does, starts again at the
/// beginning of the text, without end. It cannot come to that if every byte that starts a token is a token itself.
fn refuse_endless_matching(gguf: &Gguf, tokens: &StringArray) -> Result<(), GgufError> {
    let mut starts = [false; 256];
    let mut alone = [false; 256];
    for token in tokens.iter() {
        let text = token.split('\0').next().unwrap_or_default();
        if let Some((first, rest)) = first_rwkv_byte(text.as_bytes()) {
            starts[usize::from(first)] = true;
            alone[usize::from(first)] |= rest.is_empty();
        }
    }
    match starts.iter().zip(alone).position(|(&starts, alone)| starts && !alone) {
        None => Ok(()),
        Some(byte) => {
            let expected = format_args!("byte {byte} as a token, as longer ones start with it");
            Err(gguf.fault(TOKENS, expected, "none"))
        }
    }
}

/// Splits the first byte off an escaped RWKV token.
fn first_rwkv_byte(token: &[u8]) -> Option<(u8, &[u8])> {
    match token {
        [] => None,
        [b'\\', b't', rest @ ..] => Some((b'\t', rest)),
        [b'\\', b'n', rest @ ..] => Some((b'\n', rest)),
        [b'\\', b'r', rest @ ..] => Some((b'\r', rest)),
        [b'\\', b'x', high, low, rest @ ..] => {
            // The same arithmetic as llama.cpp's, so that odd digits come out the same.
            let digit = |c: u8| c.wrapping_sub(if c >= b'a' { b'a' - 10 } else { b'0' });
            Some(((digit(*high) << 4).wrapping_add(digit(*low)), rest))
        }
        [b'\\', b'x', ..] | [b'\\'] => None,
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => Some((*byte, rest)),
    }
}
