//! What is compiled for: the processor family and the instruction sets.

use crate::levels::LEVELS;
use std::path::Path;
use std::process::Command;

const DISPATCH: &str = "dispatch";

pub struct Target {
    pub arch: Arch,
    /// As asked for: `native`, `dispatch`, or a level such as `x86-64-v3`.
    pub cpu: String,
    /// For what the CPU backend is compiled: once, or for `dispatch` from the least to the best.
    pub levels: Vec<Level>,
    /// First line of `cc --version`.
    pub compiler: String,
}

pub struct Level {
    pub name: String,
    /// `-march=…` and friends.
    pub flags: Vec<String>,
    /// The compiler's predefined macros under `flags`: `native` differs between machines, this tells which.
    pub macros: String,
}

impl Level {
    /// The name as a part of a symbol's.
    pub fn id(&self) -> String {
        self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }

    /// Instruction sets under the compiler's names, of those that matter to the kernels.
    pub fn features(&self) -> Vec<&str> {
        let names = self.macros.lines().filter_map(|l| l.strip_prefix("#define __")?.strip_suffix(" 1"));
        // Arm's names end without underscores.
        let names = names.map(|name| name.trim_end_matches("__"));
        let matter = ["AVX", "FMA", "F16C", "BMI", "SSE", "SSSE", "AMX", "ARM_FEATURE"];
        names.filter(|name| matter.iter().any(|prefix| name.starts_with(prefix))).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86,
    Arm,
}

impl Target {
    pub fn resolve() -> Result<Target, String> {
        println!("cargo::rerun-if-env-changed=LLAMAPEN_TARGET_CPU");
        let var = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set; run this through cargo"));
        let (triple, host) = (var("TARGET")?, var("HOST")?);
        let arch = match var("CARGO_CFG_TARGET_ARCH")?.as_str() {
            "x86_64" => Arch::X86,
            "aarch64" => Arch::Arm,
            other => {
                return Err(format!(
                    "no CPU kernels are compiled for {other} ({triple}); x86_64 and aarch64 are supported"
                ));
            }
        };
        let os = var("CARGO_CFG_TARGET_OS")?;
        if os != "linux" {
            return Err(format!("{os} is not supported yet ({triple}); this version builds on Linux"));
        }
        let cpu = match std::env::var("LLAMAPEN_TARGET_CPU") {
            Ok(cpu) if !cpu.is_empty() => cpu,
            _ if triple == host => "native".into(),
            _ if arch == Arch::X86 => "x86-64-v3".into(),
            _ => "armv8-a".into(),
        };
        if cpu == "native" && triple != host {
            return Err(format!(
                "LLAMAPEN_TARGET_CPU=native makes no sense when cross-compiling for {triple}; name a level such as x86-64-v3"
            ));
        }
        if cpu == DISPATCH && arch != Arch::X86 {
            return Err(format!(
                "LLAMAPEN_TARGET_CPU={DISPATCH} is for x86_64 on Linux only ({triple}); name a level such as armv8.2-a+dotprod"
            ));
        }
        let flags = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        let wanted: Vec<(&str, Vec<String>)> = match (cpu.as_str(), arch) {
            (DISPATCH, _) => LEVELS.iter().map(|(name, needs)| (*name, flags(needs))).collect(),
            // As the vendored CMake files do: -mcpu=native on arm, which gcc resolves to the exact core.
            ("native", Arch::Arm) => vec![("native", flags(&["-mcpu=native"]))],
            (name, _) => vec![(name, vec![format!("-march={name}")])],
        };

        let tool = cc::Build::new().cargo_metadata(false).warnings(false).get_compiler();
        let compiler = first_line(Command::new(tool.path()).arg("--version"))?;
        let level = |(name, flags): (&str, Vec<String>)| match predefined(tool.path(), &flags) {
            Ok(macros) => Ok(Level { name: name.to_owned(), flags, macros }),
            Err(e) => Err(format!("{compiler} does not accept {} (LLAMAPEN_TARGET_CPU={cpu}): {e}", flags.join(" "))),
        };
        let levels = wanted.into_iter().map(level).collect::<Result<_, _>>()?;
        Ok(Target { arch, cpu, levels, compiler })
    }

    /// Whether the CPU backend is there several times, and chosen at run time.
    pub fn dispatches(&self) -> bool {
        self.cpu == DISPATCH
    }

    /// What every machine has that can run it.
    pub fn least(&self) -> &Level {
        &self.levels[0]
    }
}

fn first_line(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("cannot run the C compiler ({command:?}): {e}. On Debian: apt-get install gcc g++"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn predefined(compiler: &Path, flags: &[String]) -> Result<String, String> {
    let output = Command::new(compiler)
        .args(flags)
        .args(["-dM", "-E", "-x", "c", "/dev/null"])
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
