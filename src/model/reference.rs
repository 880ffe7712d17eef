//! [`ModelReference`]: the text by which a caller names a model.

use super::hub::HubReference;
use crate::error::{Error, Result};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// Places this library knows of but never reads from, and what to do about a model there.
const REMOTE: [(&str, &str); 8] = [
    ("http", "Download the file, for example with `curl -LO`, and give its path"),
    ("https", "Download the file, for example with `curl -LO`, and give its path"),
    ("s3", "Download the file, for example with `aws s3 cp`, and give its path"),
    ("gs", "Download the file, for example with `gcloud storage cp`, and give its path"),
    ("oci", "Fetch the artifact, for example with `oras pull`, and give the path of its GGUF file"),
    ("docker", "Fetch the artifact, for example with `docker model pull`, and give the path of its GGUF file"),
    (
        "ollama",
        "Fetch it with `ollama pull`; `ollama show --modelfile NAME` prints the path of its file after FROM: give that",
    ),
    ("modelscope", "Download the file, for example with `modelscope download`, and give its path"),
];

/// What a `file://` URL must not hold as it is.
const IN_URL: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');

/// Which model: a path, a file of a hub repository, or something elsewhere.
///
/// Parsing looks at the text alone, never at the file system, so equal text is an equal reference:
///
/// | text | meaning |
/// |---|---|
/// | `models/m.gguf`, `./a:b.gguf`, `C:\m.gguf` | a path: whatever does not start with a scheme of this table |
/// | `file:models/m.gguf` | a path, taken as it is |
/// | `file:///models/my%20m.gguf` | an absolute path as a URL: percent-decoded. Another host than `localhost` is refused |
/// | `hf:org/repo@rev/file`, also `hf://…` | a file of a hub repository, see [`HubReference`] |
/// | `http:`, `https:`, `s3:`, `gs:`, `oci:`, `docker:`, `ollama:`, `modelscope:` | elsewhere: [`locate`](super::locate()) says how to get it |
/// | `other://…` | refused, naming the known schemes |
///
/// A path may name a GGUF file, any part of a split model, or a folder with one model in it. A scheme has at least two
/// letters, in any case. A name such as `qwen:7b`, whose scheme is unknown but which is no URL either, is a path. A path
/// that does start like a scheme is written with `./` before it, or with `file:`.
///
/// As text (and in JSON) it is what [`Display`](fmt::Display) gives; parsing that gives the same reference back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelReference {
    /// A file, any part of a split model, or a folder with one model in it.
    Path(PathBuf),
    /// A file of a repository in the local hub cache.
    Hub(HubReference),
    /// Something that would have to be downloaded, which this library never does.
    Remote(RemoteReference),
}

impl ModelReference {
    /// The reference that a path from the command line, or from a caller's [`Path`](std::path::Path), spells. What is not
    /// UTF-8 is a path.
    ///
    /// # Errors
    /// `InvalidParams` as for parsing text.
    pub fn from_os(text: impl AsRef<OsStr>) -> Result<Self> {
        let text = text.as_ref();
        match text.to_str() {
            Some(text) => text.parse(),
            None => Ok(Self::Path(text.into())),
        }
    }

    /// For a path that was not found although it starts like a scheme: what may have been meant.
    pub(super) fn scheme_hint(&self) -> Option<String> {
        let Self::Path(path) = self else { return None };
        let (scheme, _) = split_scheme(path.to_str()?)?;
        Some(format!(". If {scheme}: was meant as a scheme: known are {}", known_schemes()))
    }
}

impl FromStr for ModelReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("model", "the path is empty; name a GGUF file"));
        }
        if text.contains('\0') {
            return Err(Error::invalid("model", "the path contains a NUL byte"));
        }
        let Some((scheme, rest)) = split_scheme(text) else { return Ok(Self::Path(text.into())) };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => file(rest).map(Self::Path),
            "hf" => HubReference::parse(rest).map(Self::Hub),
            known if REMOTE.iter().any(|(name, _)| *name == known) => Ok(Self::Remote(RemoteReference(text.into()))),
            unknown if rest.starts_with("//") => {
                Err(Error::invalid("model", format!("unknown scheme {unknown}:; known are {}", known_schemes())))
            }
            _ => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for ModelReference {
    /// The shortest text that means this reference. A relative path that is not UTF-8 has none: it is shown with
    /// replacement characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => match path.to_str() {
                Some(text) if text.parse().is_ok_and(|parsed: Self| parsed == *self) => f.write_str(text),
                Some(text) => write!(f, "file:{text}"),
                None if path.is_absolute() => {
                    write!(f, "file://{}", percent_encode(path.as_os_str().as_bytes(), IN_URL))
                }
                None => path.display().fmt(f),
            },
            Self::Hub(hub) => hub.fmt(f),
            Self::Remote(remote) => f.write_str(&remote.0),
        }
    }
}

impl Serialize for ModelReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Path(path) if path.to_str().is_none() && path.is_relative() => {
                Err(ser::Error::custom("a relative path that is not UTF-8 cannot be written as text"))
            }
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for ModelReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A model that is not on this machine: `https://…`, `s3://…`, `oci://…` and the like, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteReference(String);

impl RemoteReference {
    /// Its scheme, such as `https`, in lower case.
    #[must_use]
    pub fn scheme(&self) -> String {
        split_scheme(&self.0).map_or_else(String::new, |(scheme, _)| scheme.to_ascii_lowercase())
    }

    /// `Unsupported`, saying what to do instead.
    pub(super) fn refusal(&self) -> Error {
        let scheme = self.scheme();
        let remedy = REMOTE.iter().find(|(name, _)| *name == scheme).map_or("", |(_, remedy)| remedy);
        Error::Unsupported(format!("model {}: this library never downloads. {remedy}", self.without_secrets()))
    }

    /// The reference as it may stand in a log: without user and password, and without the query, where signed URLs carry
    /// their token.
    fn without_secrets(&self) -> String {
        let text = self.0.split(['?', '#']).next().unwrap_or_default();
        match text.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
            }
            None => text.to_owned(),
        }
    }
}

/// `scheme` and the rest of `scheme:rest`. One letter is no scheme but a drive of another system.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let rest_of_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme =
        scheme.len() >= 2 && scheme.as_bytes()[0].is_ascii_alphabetic() && scheme.bytes().all(rest_of_scheme);
    is_scheme.then_some((scheme, rest))
}

/// The schemes that mean something, for messages.
fn known_schemes() -> String {
    let remote: Vec<_> = REMOTE.iter().map(|(name, _)| format!("{name}:")).collect();
    format!(
        "file:, hf:, and, only to say how to get the model, {}. A path may be given as file:PATH",
        remote.join(", ")
    )
}

/// What follows `file:`: a path as it is, or with `//` a URL.
fn file(rest: &str) -> Result<PathBuf> {
    let invalid = |problem: &str| Err(Error::invalid("model", format!("file:{rest}: {problem}")));
    let Some(url) = rest.strip_prefix("//") else {
        return match rest {
            "" => invalid("the path is empty; name a GGUF file"),
            path => Ok(path.into()),
        };
    };
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
        return invalid(
            "names another host; for a file of this machine write file:///absolute/path or file:relative/path",
        );
    }
    if path.is_empty() {
        return invalid("the path is empty; write file:///absolute/path");
    }
    if path.contains(['?', '#']) {
        return invalid("a file URL has no query or fragment; in a name, write %3F for ? and %23 for #");
    }
    let encoded = |at: usize| path.as_bytes().get(at + 1..at + 3).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
    if !path.match_indices('%').all(|(at, _)| encoded(at)) {
        return invalid("a % is not followed by two hexadecimal digits; write %25 for % itself");
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.contains(&0) {
        return invalid("the path contains a NUL byte");
    }
    Ok(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use proptest::prelude::*;

    fn parse(text: &str) -> ModelReference {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn refused(text: &str) -> String {
        let error = text.parse::<ModelReference>().expect_err(text);
        assert_eq!(error.status(), Status::InvalidParams, "{error}");
        error.to_string()
    }

    fn path(text: &str) -> ModelReference {
        ModelReference::Path(text.into())
    }

    #[test]
    fn what_has_no_known_scheme_is_a_path() {
        for text in
            ["m.gguf", "/a/m.gguf", "./a:b.gguf", "./hf:x", "a/http:b", "C:\\m.gguf", "c://m", "qwen:7b", "1a://x", " "]
        {
            assert_eq!(parse(text), path(text));
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn file_references_are_paths() {
        for (text, expected) in [
            ("file:m.gguf", "m.gguf"),
            ("FILE:/a/my%20m.gguf", "/a/my%20m.gguf"),
            ("file:hf:x", "hf:x"),
            ("file:///a/my%20%C3%BC%25.gguf", "/a/my ü%.gguf"),
            ("file://localhost/a", "/a"),
            ("file:////a", "//a"),
        ] {
            assert_eq!(parse(text), path(expected), "{text}");
        }
        assert_eq!(path("hf:x").to_string(), "file:hf:x");
        assert_eq!(path("what://x").to_string(), "file:what://x");
        for (text, part) in [
            ("", "empty"),
            ("a\0b", "NUL"),
            ("file:", "empty"),
            ("file://", "empty"),
            ("file://host/a", "another host"),
            ("file:///a%2", "two hexadecimal digits"),
            ("file:///a%g0", "two hexadecimal digits"),
            ("file:///a%00b", "NUL"),
            ("file:///a?b", "%3F"),
            ("file:///a#b", "%23"),
        ] {
            assert!(refused(text).contains(part), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_survives_as_a_url() {
        let reference = parse("file:///a/%FF%20%2541");
        assert_eq!(reference, ModelReference::Path(OsStr::from_bytes(b"/a/\xff %41").into()));
        assert_eq!(reference.to_string(), "file:///a/%FF%20%2541");
        assert_eq!(ModelReference::from_os(OsStr::from_bytes(b"/a/\xff %41")).unwrap(), reference);
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(serde_json::from_str::<ModelReference>(&json).unwrap(), reference);
        let relative = ModelReference::from_os(OsStr::from_bytes(b"\xff")).unwrap();
        assert!(serde_json::to_string(&relative).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn unknown_schemes_name_the_known_ones() {
        let message = refused("ftp://host/m.gguf");
        for part in ["unknown scheme ftp:", "file:", "hf:", "https:", "oci:"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn remote_references_parse_and_are_refused_without_their_secrets() {
        for (scheme, _) in REMOTE {
            let reference = parse(&format!("{scheme}://user:word@host/m.gguf?token=secret#x"));
            let ModelReference::Remote(remote) = &reference else { panic!("{reference:?}") };
            assert_eq!(remote.scheme(), scheme);
            let error = remote.refusal();
            assert_eq!(error.status(), Status::Unsupported);
            let message = error.to_string();
            assert!(message.contains(&format!("{scheme}://host/m.gguf: this library never downloads")), "{message}");
            assert!(!message.contains("secret") && !message.contains("word"), "{message}");
            assert!(message.contains("path"), "says what to do: {message}");
        }
        assert!(matches!(parse("ollama:qwen:7b"), ModelReference::Remote(_)));
        assert!(matches!(parse("HTTPS://x"), ModelReference::Remote(_)));
    }

    /// Texts that look like references, made of the pieces that matter.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "file:",
            "hf:",
            "https:",
            "x:",
            "ab:",
            "/",
            "//",
            ".",
            "..",
            "@",
            "%",
            "%2F",
            "%ff",
            "%00",
            "?",
            "#",
            "a",
            "B-1",
            "main",
            "refs/pr/1",
            "--",
            " ",
            "ü",
            "\0",
            "\\",
            ".gguf",
        ]);
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn display_gives_what_parses_to_the_same(text in prop_oneof![pieces(), ".*", "hf:[a-z]/[a-z](@[a-z%2F]{1,4})?(/[a-z]){0,3}"]) {
            if let Ok(reference) = text.parse::<ModelReference>() {
                let shown = reference.to_string();
                prop_assert_eq!(shown.parse::<ModelReference>().unwrap(), reference.clone(), "{:?}", shown);
                let json = serde_json::to_string(&reference).unwrap();
                prop_assert_eq!(serde_json::from_str::<ModelReference>(&json).unwrap(), reference);
            }
        }

        #[test]
        fn any_path_has_a_text(text in "[^\0]+") {
            let reference = ModelReference::Path(text.into());
            prop_assert_eq!(reference.to_string().parse::<ModelReference>().unwrap(), reference);
        }
    }
}
