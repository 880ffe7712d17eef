//! Logit biases in JSON, as llama-server and OpenAI's API take them: `[[token, bias], ...]` or `{"token": bias, ...}`. A
//! bias of `false` is negative infinity, which JSON cannot write.

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bias {
    Never(bool),
    By(f32),
}

impl Bias {
    fn value<E: Error>(self) -> Result<f32, E> {
        match self {
            Self::By(bias) => Ok(bias),
            Self::Never(false) => Ok(f32::NEG_INFINITY),
            Self::Never(true) => Err(E::custom("a bias is a number, or false for never")),
        }
    }
}

pub(super) fn serialize<S: Serializer>(biases: &[(i32, f32)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(biases.iter().map(|&(token, bias)| match bias == f32::NEG_INFINITY {
        true => (token, Bias::Never(false)),
        false => (token, Bias::By(bias)),
    }))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(i32, f32)>, D::Error> {
    struct Biases;

    impl<'de> Visitor<'de> for Biases {
        type Value = Vec<(i32, f32)>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a list of [token, bias], or a map from token to bias")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut biases = Vec::new();
            while let Some((token, bias)) = items.next_element::<(i32, Bias)>()? {
                biases.push((token, bias.value()?));
            }
            Ok(biases)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut biases = Vec::new();
            while let Some((token, bias)) = items.next_entry::<String, Bias>()? {
                let token = token.parse().map_err(|_| A::Error::custom(format!("{token:?} is not a token id")))?;
                biases.push((token, bias.value()?));
            }
            Ok(biases)
        }
    }

    deserializer.deserialize_any(Biases)
}

#[cfg(test)]
mod tests {
    use crate::Request;

    #[test]
    fn lists_and_maps_and_never() {
        let read = |json: &str| Request::from_json(&format!(r#"{{"prompt": "a", "logit_bias": {json}}}"#));
        let expected = vec![(5, 1.5), (7, -100.0), (9, f32::NEG_INFINITY)];
        let list = read("[[5, 1.5], [7, -100], [9, false]]").unwrap();
        assert_eq!(list.logit_bias, expected);
        assert_eq!(read(r#"{"5": 1.5, "7": -100, "9": false}"#).unwrap().logit_bias, expected);
        // And back.
        assert_eq!(Request::from_json(&serde_json::to_string(&list).unwrap()).unwrap(), list);
        for bad in ["3", r#"{"the": 1}"#, "[[5]]", "[[5, true]]", r#"[["5", 1]]"#, "[[5, null]]"] {
            assert_eq!(read(bad).unwrap_err().status(), crate::Status::InvalidParams, "{bad}");
        }
    }
}
