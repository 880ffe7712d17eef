//! Speed of one stream through the whole library, for `make bench`, which compares it with tests/reference.
//!
//! `bench_stream --model FILE --threads N --n-predict N --prompt-file FILE`, prints `prefill_tok_s=… decode_tok_s=…`.

use llamapen::{EngineConfig, Event, Request, Supervisor, SupervisorConfig, prepare};
use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options: HashMap<&str, &str> =
        args.chunks(2).filter_map(|pair| Some((pair.first()?.strip_prefix("--")?, pair.get(1)?.as_str()))).collect();
    let get = |name: &str| options.get(name).copied().ok_or_else(|| format!("--{name} is missing"));
    let prompt = match options.get("prompt-file") {
        Some(path) => std::fs::read_to_string(path)?,
        None => "Once upon a time, in a village by the sea,".into(),
    };
    let mut config = EngineConfig::new(get("model")?).with_threads(get("threads")?.parse()?).with_n_ctx(2048);
    if let Some(n_ubatch) = options.get("n-ubatch") {
        config = config.with_n_ubatch(n_ubatch.parse()?);
    }
    let supervisor = Supervisor::start(prepare(&config)?, SupervisorConfig::default())?;
    supervisor.wait_ready(None)?;

    let request = Request::prompt(prompt.trim_end()).with_temperature(0.0).with_ignore_eos(true);
    let request = request.with_max_tokens(get("n-predict")?.parse()?);
    let (mut started, mut first, mut last, mut prompt_tokens, mut tokens) = (None, None, None, 0, 0u32);
    for event in supervisor.submit(request)? {
        match event {
            Event::Started(s) => (started, prompt_tokens) = (Some(Instant::now()), s.prompt_tokens),
            Event::Token(_) => {
                last = Some(Instant::now());
                first = first.or(last);
                tokens += 1;
            }
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    let (Some(started), Some(first), Some(last)) = (started, first, last) else { return Err("no token came".into()) };
    let prefill = f64::from(prompt_tokens) / first.duration_since(started).as_secs_f64();
    let decode = f64::from(tokens - 1) / last.duration_since(first).as_secs_f64();
    println!("prefill_tok_s={prefill:.1} decode_tok_s={decode:.1}");
    Ok(())
}
