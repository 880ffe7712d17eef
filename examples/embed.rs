//! The Rust example of the README, which a test compares with this file and runs.

use llamapen::{EngineConfig, Event, Message, Request, Supervisor, SupervisorConfig, prepare};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: embed MODEL.gguf")?;
    let engine = prepare(&EngineConfig::new(model))?;
    let supervisor = Supervisor::start(engine, SupervisorConfig::default())?;
    let question = Message::user("What is the capital of France?");
    for event in supervisor.submit(Request::chat([question]).with_temperature(0.0))? {
        match event {
            Event::Token(token) => print!("{}", token.text),
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    Ok(())
}
