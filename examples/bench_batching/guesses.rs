//! What guessing ahead gives where an answer repeats its prompt, and what it costs where it does not.

use crate::options::Options;
use llamapen::{Event, Message, Request, Supervisor};
use serde_json::{Map, Value, json};
use std::error::Error;

/// Most tokens of a guess: none, and more.
const SIZES: [u32; 4] = [0, 3, 7, 15];

const STORY: &str = "The lighthouse stood on a rock a mile from the shore. Every evening at six the keeper climbed the \
    ninety-two steps, trimmed the wick, filled the lamp with oil and lit it. Then he wrote the time, the wind and the \
    height of the waves into a large grey book. In thirty years he had missed one evening only, the evening on which \
    his daughter was born, and for that evening the page in the book is blank.";

fn texts() -> Vec<(&'static str, Request)> {
    let copy = format!("Repeat the following text word for word.\n\n{STORY}");
    let list: String =
        (1..9).map(|i| format!("{{\"id\": {i}, \"name\": \"item {i}\", \"price\": {i}.50}},\n")).collect();
    vec![
        ("a text to repeat", Request::chat([Message::user(copy)]).with_temperature(0.0)),
        ("a list to go on with", Request::prompt(list).with_temperature(0.0)),
        (
            "a story to tell",
            Request::prompt("Once upon a time, in a village by the sea,").with_temperature(1.0).with_seed(7),
        ),
    ]
}

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let most = SIZES[SIZES.len() - 1];
    let engine = options.engine()?.with_n_ctx(2048).with_prefix_cache(false).with_draft_max(most);
    let supervisor = options.start(&engine)?;
    if supervisor.health()?.workers[0].draft_max == 0 {
        return Err("with this model nothing is guessed on this CPU".into());
    }
    let mut results = Map::new();
    for (name, request) in texts() {
        let request = request.with_ignore_eos(true).with_max_tokens(options.get("n-predict", 120)?);
        let sizes =
            SIZES.iter().map(|size| Ok((size.to_string(), run(&supervisor, request.clone().with_draft_max(*size))?)));
        results.insert(name.into(), Value::Object(sizes.collect::<Result<_, Box<dyn Error>>>()?));
    }
    Ok(results.into())
}

fn run(supervisor: &Supervisor, request: Request) -> Result<Value, Box<dyn Error>> {
    for event in supervisor.submit(request)? {
        match event {
            Event::Finished(end) => {
                let tok_s = f64::from(end.usage.completion_tokens - 1) / end.timings.decode_ms * 1e3;
                let usage = end.usage;
                return Ok(json!({ "tok_s": tok_s, "guessed": usage.draft_tokens, "right": usage.draft_accepted }));
            }
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    Err("no end".into())
}
