//! What the measurements share: options, prompts, starting.

use llamapen::{EngineConfig, Request, Supervisor, SupervisorConfig, prepare};
use std::collections::HashMap;
use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

pub struct Options(HashMap<String, String>);

impl Options {
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let pair = |pair: &[String]| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            other => Err(format!("{other:?} is no option with a value")),
        };
        args.chunks(2).map(pair).collect::<Result<_, _>>().map(Self)
    }

    pub fn get<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, String> {
        match self.0.get(name) {
            Some(text) => text.parse().map_err(|_| format!("--{name} cannot be '{text}'")),
            None => Ok(otherwise),
        }
    }

    pub fn model(&self) -> Result<&str, &'static str> {
        self.0.get("model").map(String::as_str).ok_or("--model is missing")
    }

    /// The engine that all measurements begin with.
    pub fn engine(&self) -> Result<EngineConfig, Box<dyn Error>> {
        let config = EngineConfig::new(self.model()?).with_workers(1).with_threads(self.get("threads", 2)?);
        Ok(config.with_n_ubatch(self.get("n-ubatch", llamapen::DEFAULT_UBATCH)?))
    }

    /// A supervisor that is ready.
    pub fn start(&self, engine: &EngineConfig) -> Result<Supervisor, Box<dyn Error>> {
        let config = SupervisorConfig::default();
        let stall = self.get("max-stall-ms", config.max_stall_ms)?;
        let supervisor = Supervisor::start(prepare(engine)?, config.with_max_stall(Duration::from_millis(stall)))?;
        supervisor.wait_ready(None)?;
        Ok(supervisor)
    }
}

/// `n` tokens of a prompt, other ones for another `seed`: what tests/reference/batched.cpp decodes, too.
pub fn words(supervisor: &Supervisor, seed: u32, n: u32) -> Vec<i32> {
    let n_vocab = i64::from(supervisor.engine().info().n_vocab);
    let word = |i: u32| 1000 + (i64::from(i) * 7919 + i64::from(seed) * 7001) % (n_vocab - 2000);
    (0..n).map(|i| i32::try_from(word(i)).expect("a token of a vocabulary")).collect()
}

pub fn greedy(tokens: Vec<i32>, n_predict: u32) -> Request {
    Request::tokens(tokens).with_temperature(0.0).with_ignore_eos(true).with_max_tokens(n_predict)
}

pub fn piece(supervisor: &Supervisor) -> llamapen::Result<u32> {
    Ok(supervisor.health()?.workers[0].prefill_piece)
}
