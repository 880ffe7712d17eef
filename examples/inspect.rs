//! Shows what llamapen knows of a model and of this machine, and how it would run one on the other. Runs nothing.
//!
//! `inspect MODEL [--json] [FLAGS]`: flags as llama.cpp takes them (`-c 8192 -np 4 -ctk q8_0`). Exits with 1 if the model
//! would not run.

use llamapen::model::{HubCache, ModelDescription, ModelInfo, ModelReference, inspect};
use llamapen::{CheckStatus, EngineConfig, Error, MachineSnapshot, Plan, Preflight, plan_on, preflight_on};
use serde_json::json;
use std::process::ExitCode;

const USAGE: &str = "usage: inspect MODEL [--json] [FLAGS], for example: inspect model.gguf -c 8192 -np 4 -ctk q8_0";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let json = args.iter().position(|arg| arg == "--json").map(|at| args.remove(at)).is_some();
    match show(args, json) {
        Ok(CheckStatus::Fail) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn show(args: Vec<String>, json: bool) -> Result<CheckStatus, Error> {
    let Some((model, flags)) = args.split_first().filter(|(model, _)| !model.starts_with('-')) else {
        println!("{USAGE}");
        return Ok(CheckStatus::Fail);
    };
    let config = EngineConfig::from_flags(["--model", model].into_iter().chain(flags.iter().map(String::as_str)))?;
    let machine = MachineSnapshot::observe();
    // A model that cannot be run is shown all the same, and the report says why it cannot.
    let model = inspect(&ModelReference::from_os(&config.model)?, &HubCache::from_env()).ok();
    let (plan, preflight) = (plan_on(&config, &machine), preflight_on(&config, &machine));
    match json {
        true => {
            println!("{}", json!({ "model": model, "plan": plan.ok(), "preflight": preflight, "machine": machine }))
        }
        false => print(model, plan.ok(), &preflight),
    }
    Ok(preflight.status())
}

fn print(model: Option<ModelDescription>, plan: Option<Plan>, preflight: &Preflight) {
    if let Some(model) = model {
        println!("{}", model.info.name.as_deref().unwrap_or(&model.id));
        for (name, value) in facts(&model.info) {
            println!("  {name:14} {value}");
        }
        println!();
    }
    if let Some(plan) = plan {
        println!("{plan}\n");
    }
    println!("{preflight}");
}

/// What the header says, in words.
fn facts(info: &ModelInfo) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("architecture", format!("{}, {} layers of width {}", info.architecture, info.n_layer, info.n_embd)),
        ("parameters", format!("{:.1} million, {}", info.n_params as f64 / 1e6, info.quantization)),
        ("context", format!("{} positions trained", info.n_ctx_train)),
        ("vocabulary", format!("{} tokens, {}", info.n_vocab, info.tokenizer_model.as_deref().unwrap_or("none"))),
    ];
    if info.n_head > 0 {
        let kv = info.n_head_kv.max();
        let (k, v) = (info.n_embd_head_k, info.n_embd_head_v);
        facts.push(("attention", format!("{} heads, {kv} for keys and values, of {k} and {v} elements", info.n_head)));
    }
    if let Some(window) = info.sliding_window {
        facts.push(("window", format!("{window} positions")));
    }
    if info.expert_count > 0 {
        facts.push(("experts", format!("{} of {} used for each token", info.expert_used_count, info.expert_count)));
    }
    if let Some(ssm) = info.ssm {
        facts.push(("state space", format!("inner size {}, state {}", ssm.d_inner, ssm.d_state)));
    }
    let template = if info.chat_template.is_some() { "in the file" } else { "none" };
    facts.push(("chat template", template.into()));
    facts.push(("weights", format!("{} bytes", info.tensor_bytes)));
    facts
}
