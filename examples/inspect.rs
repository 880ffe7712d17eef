//! Shows what llamapen knows of a model and of this machine, and how it would run one on the other. Runs nothing.
//!
//! `inspect MODEL [--json] [FLAGS]`: flags as llama.cpp takes them (`-c 8192 -np 4 -ctk q8_0`). Exits with 1 if the model
//! would not run.

use llamapen::model::{HubCache, ModelDescription, ModelInfo, ModelReference, inspect};
use llamapen::{CheckStatus, EngineConfig, Error, MachineSnapshot, Plan, Preflight, plan_on, preflight_on};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: inspect MODEL [--json] [FLAGS], for example: inspect model.gguf -c 8192 -np 4 -ctk q8_0";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let json = args.iter().position(|arg| arg == "--json").map(|at| args.remove(at)).is_some();
    let (text, code) = match show(args, json) {
        Ok((text, CheckStatus::Fail)) => (text, ExitCode::FAILURE),
        Ok((text, _)) => (text, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Whoever reads it, such as `head`, may have had enough before the end.
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

fn show(args: Vec<String>, json: bool) -> Result<(String, CheckStatus), Error> {
    let Some((model, flags)) = args.split_first().filter(|(model, _)| !model.starts_with('-')) else {
        return Ok((USAGE.into(), CheckStatus::Fail));
    };
    let config = EngineConfig::from_flags(["--model", model].into_iter().chain(flags.iter().map(String::as_str)))?;
    let machine = MachineSnapshot::observe();
    // A model that cannot be run is shown all the same, and the report says why it cannot.
    let model = inspect(&ModelReference::from_os(&config.model)?, &HubCache::from_env()).ok();
    let (plan, preflight) = (plan_on(&config, &machine).ok(), preflight_on(&config, &machine));
    let text = match json {
        true => json!({ "model": model, "plan": plan, "preflight": preflight, "machine": machine }).to_string(),
        false => for_people(model, plan, &preflight),
    };
    Ok((text, preflight.status()))
}

fn for_people(model: Option<ModelDescription>, plan: Option<Plan>, preflight: &Preflight) -> String {
    let mut parts = vec![];
    if let Some(model) = model {
        let title = model.info.name.as_deref().unwrap_or(&model.id).to_owned();
        let lines = facts(&model.info).into_iter().map(|(name, value)| format!("  {name:14} {value}"));
        parts.push(std::iter::once(title).chain(lines).collect::<Vec<_>>().join("\n"));
    }
    parts.extend(plan.map(|plan| plan.to_string()));
    parts.push(preflight.to_string());
    parts.join("\n\n")
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
