//! What is compiled for: the processor family and the instruction set.

use std::process::Command;

pub struct Target {
    pub arch: Arch,
    /// As asked for: `native`, or a level such as `x86-64-v3`.
    pub cpu: String,
    /// What the compiler made of it: `-march=…` and friends, for the CPU backend only.
    pub flags: Vec<String>,
    /// First line of `cc --version`.
    pub compiler: String,
    /// The compiler's predefined macros under `flags`: `native` differs between machines, this tells which.
    pub macros: String,
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
        let flags = vec![match arch {
            // As the vendored CMake files do: -mcpu=native on arm, which gcc resolves to the exact core.
            Arch::Arm if cpu == "native" => "-mcpu=native".into(),
            _ => format!("-march={cpu}"),
        }];

        let tool = cc::Build::new().cargo_metadata(false).warnings(false).get_compiler();
        let compiler = first_line(Command::new(tool.path()).arg("--version"))?;
        let macros = predefined(tool.path(), &flags)
            .map_err(|e| format!("{compiler} does not accept {} (LLAMAPEN_TARGET_CPU={cpu}): {e}", flags.join(" ")))?;
        Ok(Target { arch, cpu, flags, compiler, macros })
    }
}

fn first_line(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("cannot run the C compiler ({command:?}): {e}. On Debian: apt-get install gcc g++"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn predefined(compiler: &std::path::Path, flags: &[String]) -> Result<String, String> {
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
