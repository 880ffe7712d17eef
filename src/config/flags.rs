//! The same configuration as a list of flags, under llama.cpp's names or our own.
//!
//! Every flag is one key of [`EngineConfig`]; the list becomes the same JSON that a configuration file would hold, so
//! that there is one place where values are judged.

use super::EngineConfig;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// One flag: the key it sets, what else it is called, and what its value is.
struct Flag {
    /// Path in the JSON of [`EngineConfig`]; its own flag is the same with `-` for `_` and `.`.
    key: &'static str,
    /// Other names, in the spelling of llama.cpp.
    aliases: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// A number, or one of these words for what is done without the flag.
    NumberOr(&'static [&'static str]),
    /// `on`, `off` or `auto`; the flag alone is `on`.
    OnOffAuto,
    /// The flag alone sets it to true.
    Switch,
}

const fn flag(key: &'static str, aliases: &'static [&'static str], kind: Kind) -> Flag {
    Flag { key, aliases, kind }
}

/// In the order in which [`EngineConfig::to_flags`] writes them.
const FLAGS: &[Flag] = &[
    flag("model", &["-m"], Kind::Text),
    flag("digest", &[], Kind::Text),
    flag("n_ctx", &["-c", "--ctx-size", "--n-ctx"], Kind::Number),
    flag("n_ubatch", &["-ub", "--ubatch-size"], Kind::Number),
    flag("threads", &["-t", "--n-threads"], Kind::Number),
    flag("share_threads", &[], Kind::OnOffAuto),
    flag("workers", &[], Kind::Number),
    flag("streams", &[], Kind::Number),
    flag("tuning", &[], Kind::Text),
    flag("tuning_cache", &[], Kind::Text),
    flag("isolation", &[], Kind::Text),
    flag("warm_spare", &[], Kind::Switch),
    flag("slots", &["-np", "--parallel", "--n-parallel"], Kind::Number),
    flag("kv_type_k", &["-ctk", "--cache-type-k", "--type-k"], Kind::Text),
    flag("kv_type_v", &["-ctv", "--cache-type-v", "--type-v"], Kind::Text),
    flag("flash_attention", &["-fa", "--flash-attn"], Kind::OnOffAuto),
    flag("swa_full", &[], Kind::Switch),
    flag("prefix_cache", &["--cache-prompt"], Kind::Switch),
    flag("prefix_store_bytes", &[], Kind::Number),
    flag("draft_max", &["--draft", "--draft-n"], Kind::Number),
    flag("devices", &["-dev", "--device", "--device-mask"], Kind::Text),
    flag("require_gpu", &["--gpu-only"], Kind::Switch),
    flag("n_gpu_layers", &["-ngl", "--ngl", "--gpu-layers"], Kind::NumberOr(&["all", "auto", "-1", "-2"])),
    flag("tensor_split", &["-ts"], Kind::Text),
    flag("memory_limit", &[], Kind::Number),
    flag("shrink.kv_type", &[], Kind::Text),
    flag("shrink.slots", &[], Kind::Number),
    flag("shrink.n_ctx", &[], Kind::Number),
    flag("shrink.n_gpu_layers", &[], Kind::Number),
    flag("deterministic", &[], Kind::Switch),
    flag("seed", &["-s"], Kind::NumberOr(&["-1"])),
    flag("use_mmap", &["--mmap"], Kind::Switch),
    flag("use_repack", &["--repack"], Kind::Switch),
    flag("use_mlock", &["--mlock"], Kind::Switch),
    flag("pool_id", &[], Kind::Text),
    flag("replica_id", &[], Kind::Number),
];

/// Flags of llama.cpp's programs that have no meaning here, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("-b", "there is one batch size: use --n-ubatch"),
    ("--batch-size", "there is one batch size: use --n-ubatch"),
    ("-hf", "name the model as hf:org/repo@revision/file; it is looked up in the local hub cache and never downloaded"),
    (
        "--hf-repo",
        "name the model as hf:org/repo@revision/file; it is looked up in the local hub cache and never downloaded",
    ),
    ("--host", "there is no server and no port"),
    ("--port", "there is no server and no port"),
    ("--temp", "sampling belongs to a request"),
    ("--top-k", "sampling belongs to a request"),
    ("--top-p", "sampling belongs to a request"),
    ("-n", "the number of tokens belongs to a request: max_tokens"),
    ("--predict", "the number of tokens belongs to a request: max_tokens"),
];

impl Flag {
    /// Its own flag, such as `--n-ctx`.
    fn own(&self) -> String {
        format!("--{}", self.key.replace(['_', '.'], "-"))
    }

    /// All its names in normal form.
    fn names(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.own()).chain(self.aliases.iter().map(|alias| normal(alias)))
    }
}

/// One spelling of a flag's name: `--n_ctx` is `--n-ctx`.
fn normal(name: &str) -> String {
    name.replace('_', "-")
}

fn invalid(name: &str, problem: impl Into<String>) -> Error {
    Error::invalid(format!("flag {name}"), problem)
}

/// The flag of a name, and whether the name switches it off.
fn find(name: &str) -> Result<(&'static Flag, bool)> {
    let wanted = normal(name);
    let named = |wanted: &str| FLAGS.iter().find(|flag| flag.names().any(|name| name == wanted));
    if let Some(found) = named(&wanted) {
        return Ok((found, false));
    }
    let positive = wanted.strip_prefix("--no-").and_then(|rest| named(&format!("--{rest}")));
    if let Some(found) = positive.filter(|flag| matches!(flag.kind, Kind::Switch | Kind::OnOffAuto)) {
        return Ok((found, true));
    }
    if let Some((_, why)) = ELSEWHERE.iter().find(|(known, _)| *known == wanted) {
        return Err(invalid(name, format!("is not taken here: {why}")));
    }
    let nearest = FLAGS.iter().flat_map(Flag::names).min_by_key(|known| strsim::damerau_levenshtein(known, &wanted));
    Err(invalid(name, format!("is unknown; the nearest is {}", nearest.unwrap_or_default())))
}

fn is_flag(text: &str) -> bool {
    // A negative number is a value.
    text.starts_with('-') && text.len() > 1 && !text[1..].starts_with(|c: char| c.is_ascii_digit())
}

/// The JSON value of a flag; `None` where it says that the choice is ours.
fn value(flag: &Flag, name: &str, text: &str) -> Result<Option<Value>> {
    let number = || match text.parse::<u64>() {
        Ok(number) => Ok(Some(Value::from(number))),
        Err(_) => Err(invalid(name, format!("{text:?} is no whole number from 0 to {}", u64::MAX))),
    };
    match flag.kind {
        Kind::Text => Ok(Some(Value::from(text))),
        Kind::Number => number(),
        Kind::NumberOr(words) if words.contains(&text) => Ok(None),
        Kind::NumberOr(_) => number(),
        Kind::OnOffAuto if text == "auto" => Ok(None),
        Kind::OnOffAuto | Kind::Switch => match text {
            "on" | "true" | "1" | "enabled" => Ok(Some(Value::from(true))),
            "off" | "false" | "0" | "disabled" => Ok(Some(Value::from(false))),
            _ => Err(invalid(name, format!("{text:?} is neither \"on\" nor \"off\""))),
        },
    }
}

/// Sets `key`, which may lie one level deep; whether it was not set before.
fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        Some((outer, inner)) => {
            let nested = config.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = nested {
                nested.insert(inner.into(), value);
            }
        }
        None => drop(config.insert(key.into(), value)),
    }
}

impl EngineConfig {
    /// Reads a configuration from flags as llama.cpp's programs take them, such as `-m model.gguf -c 4096 -ngl 99`.
    ///
    /// Each key of the configuration is a flag too: `--n-ctx 4096`, `--n-ctx=4096` and `--n_ctx=4096` are the same.
    /// Switches are on alone, off as `--no-…`, and take `on` or `off` behind `=`.
    ///
    /// # Errors
    /// `InvalidParams` for an unknown flag (with the nearest name), one that is given twice, a missing or malformed
    /// value, or a missing model.
    pub fn from_flags<T: AsRef<str>>(flags: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut flags = flags.into_iter().peekable();
        let mut config = Map::new();
        let mut seen: Vec<&str> = vec![];
        while let Some(text) = flags.next() {
            let text = text.as_ref();
            if !is_flag(text) {
                return Err(Error::invalid("flags", format!("{text:?} is no flag; a model is named by --model")));
            }
            let (name, given) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let (flag, negated) = find(name)?;
            if seen.contains(&flag.key) {
                return Err(invalid(name, format!("sets {} a second time", flag.key)));
            }
            seen.push(flag.key);
            let optional = matches!(flag.kind, Kind::Switch | Kind::OnOffAuto);
            let next_is_value = |next: &T| match flag.kind {
                // A switch takes no value of its own, so that what follows is not swallowed.
                Kind::Switch => false,
                Kind::OnOffAuto => ["on", "off", "auto", "0", "1"].contains(&next.as_ref()),
                _ => !is_flag(next.as_ref()),
            };
            let given = match given {
                Some(_) if negated => return Err(invalid(name, "takes no value")),
                Some(given) => Some(given),
                None if negated => Some("off".into()),
                None => flags.next_if(next_is_value).map(|next| next.as_ref().to_owned()),
            };
            let given = match given {
                Some(given) => given,
                None if optional => "on".into(),
                None => return Err(invalid(name, "needs a value")),
            };
            if let Some(value) = value(flag, name, &given)? {
                set(&mut config, flag.key, value);
            }
        }
        if !config.contains_key("model") {
            return Err(Error::invalid("flags", "no model is named; name it by --model"));
        }
        serde_json::from_value(Value::Object(config)).map_err(|e| Error::invalid("flags", e.to_string()))
    }

    /// The configuration as flags in normal form: each under its own name, in one order, and only those that differ
    /// from the default. [`from_flags`](Self::from_flags) gives the same configuration back.
    #[must_use]
    pub fn to_flags(&self) -> Vec<String> {
        let json = |config: &Self| serde_json::to_value(config).unwrap_or_default();
        let (own, default) = (json(self), json(&Self::new("")));
        let at = |root: &Value, key: &str| key.split('.').try_fold(root.clone(), |at, part| at.get(part).cloned());
        let text = |value: Value| match value {
            Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
            Value::String(text) => text,
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        let differing = FLAGS.iter().filter_map(|flag| {
            let value = at(&own, flag.key).filter(|value| at(&default, flag.key).as_ref() != Some(value))?;
            Some(format!("{}={}", flag.own(), text(value)))
        });
        differing.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Isolation, KvType, Shrink, Tuning};

    fn read(flags: &str) -> Result<EngineConfig> {
        EngineConfig::from_flags(flags.split_whitespace())
    }

    fn problem(flags: &str) -> String {
        read(flags).unwrap_err().to_string()
    }

    #[test]
    fn aliases_mean_the_same() {
        for flags in ["-ngl 7", "--ngl 7", "--gpu-layers 7", "--n-gpu-layers=7", "--n_gpu_layers 7", "-ngl=7"] {
            assert_eq!(read(&format!("-m m {flags}")).unwrap(), EngineConfig::new("m").with_n_gpu_layers(7), "{flags}");
        }
        let many = read(
            "--model m -c 512 -ub 64 -t 2 -np 3 -ctk q8_0 -ctv q8_0 -fa on -dev none --no-mmap --no-repack --mlock -s 5",
        );
        let expected = EngineConfig::new("m")
            .with_n_ctx(512)
            .with_n_ubatch(64)
            .with_threads(2)
            .with_slots(3)
            .with_kv_types(KvType::Q8_0, KvType::Q8_0)
            .with_flash_attention(true)
            .with_devices("none".parse().unwrap())
            .with_mmap(false)
            .with_repack(false)
            .with_mlock(true)
            .with_seed(5);
        assert_eq!(many.unwrap(), expected);
    }

    #[test]
    fn switches_and_choices_that_are_ours() {
        assert_eq!(read("-m m -ngl all --seed -1 -fa auto").unwrap(), EngineConfig::new("m"));
        assert_eq!(read("-fa -m m").unwrap(), EngineConfig::new("m").with_flash_attention(true));
        assert_eq!(read("-m m --no-flash-attn").unwrap(), EngineConfig::new("m").with_flash_attention(false));
        assert_eq!(read("-m m --deterministic=off").unwrap(), EngineConfig::new("m"));
        assert_eq!(read("-m m --deterministic").unwrap(), EngineConfig::new("m").with_deterministic(true));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(problem("-m m --n-ctxx 5"), "flag --n-ctxx: is unknown; the nearest is --n-ctx");
        assert_eq!(problem("-m m --gpu-layer 5"), "flag --gpu-layer: is unknown; the nearest is --gpu-layers");
        assert_eq!(problem("-m m -c"), "flag -c: needs a value");
        assert_eq!(problem("-m m -c -t 2"), "flag -c: needs a value");
        assert_eq!(problem("-m m -c 1 --ctx-size 2"), "flag --ctx-size: sets n_ctx a second time");
        assert_eq!(problem("-m m stray"), "flags: \"stray\" is no flag; a model is named by --model");
        assert_eq!(problem("-m m --mlock yes"), "flags: \"yes\" is no flag; a model is named by --model");
        assert_eq!(problem("-m m --mlock=yes"), "flag --mlock: \"yes\" is neither \"on\" nor \"off\"");
        assert_eq!(problem("-m m --no-mmap=1"), "flag --no-mmap: takes no value");
        assert_eq!(problem("-c 5"), "flags: no model is named; name it by --model");
        assert!(problem("-m m -c many").contains("\"many\" is no whole number"));
        assert!(problem("-m m -c -5").contains("\"-5\" is no whole number"));
        assert!(problem("-m m --port 80").contains("no server"));
        assert!(problem("-m m -ctk q9").contains("q9"), "{}", problem("-m m -ctk q9"));
        assert!(problem("-m m --tuning fast").contains("unknown variant `fast`"), "{}", problem("-m m --tuning fast"));
        assert!(problem("-m m --slots 4294967296").contains("4294967296"));
    }

    #[test]
    fn the_normal_form_reads_back() {
        assert_eq!(EngineConfig::new("a b").to_flags(), ["--model=a b"]);
        let full = EngineConfig::new("m=1.gguf")
            .with_digest(&format!("sha256:{}, sha256:{}", "a".repeat(64), "b".repeat(64)))
            .unwrap()
            .with_n_ctx(512)
            .with_n_ubatch(64)
            .with_threads(2)
            .with_share_threads(false)
            .with_workers(2)
            .with_streams(5)
            .with_tuning(Tuning::Auto)
            .with_tuning_cache("/measured")
            .with_isolation(Isolation::Process)
            .with_warm_spare(true)
            .with_slots(3)
            .with_kv_types(KvType::Q8_0, KvType::Q4_0)
            .with_flash_attention(false)
            .with_swa_full(true)
            .with_prefix_cache(false)
            .with_prefix_store_bytes(1 << 30)
            .with_draft_max(3)
            .with_devices("1,0".parse().unwrap())
            .with_require_gpu(true)
            .with_n_gpu_layers(7)
            .with_tensor_split("3,1".parse().unwrap())
            .with_memory_limit(1 << 40)
            .with_shrink(Shrink::default().with_kv_type(KvType::Q4_0).with_slots(1).with_n_ctx(16).with_n_gpu_layers(0))
            .with_deterministic(true)
            .with_seed(u64::MAX)
            .with_mmap(false)
            .with_repack(false)
            .with_mlock(true)
            .with_pool_id("p")
            .with_replica_id(3);
        let flags = full.to_flags();
        assert_eq!(flags.len(), FLAGS.len(), "a new key of EngineConfig is a flag too: {flags:?}");
        assert_eq!(EngineConfig::from_flags(&flags).unwrap(), full);
        let keys = serde_json::to_value(&full).unwrap();
        let keys = keys.as_object().unwrap().keys().map(String::as_str);
        for key in keys {
            assert!(FLAGS.iter().any(|flag| flag.key.split('.').next() == Some(key)), "{key} has no flag");
        }
    }

    #[test]
    fn json_and_toml_are_the_same_configuration() {
        let config =
            EngineConfig::new("m").with_n_ctx(512).with_shrink(Shrink::default().with_slots(1)).with_mmap(false);
        let json = r#"{"model": "m", "n_ctx": 512, "shrink": {"slots": 1}, "use_mmap": false, "threads": null}"#;
        assert_eq!(EngineConfig::from_json(json).unwrap(), config);
        let toml: EngineConfig =
            toml::from_str("model = 'm'\nn_ctx = 512\nuse_mmap = false\n[shrink]\nslots = 1").unwrap();
        assert_eq!(toml, config);
        let digest = format!("sha256:{}", "a".repeat(64));
        let one = EngineConfig::from_json(&format!(r#"{{"model": "m", "digest": "{digest}"}}"#)).unwrap();
        let list = EngineConfig::from_json(&format!(r#"{{"model": "m", "digest": ["{digest}"]}}"#)).unwrap();
        assert_eq!(one, list);
        let error = EngineConfig::from_json(r#"{"model": "m", "n_ctxx": 3}"#).unwrap_err().to_string();
        assert!(error.contains("n_ctxx") && error.contains("n_ctx"), "{error}");
        let error = EngineConfig::from_json(r#"{"model": "m", "digest": "md5:00"}"#).unwrap_err().to_string();
        assert!(error.contains("its algorithm is unknown"), "{error}");
    }
}
