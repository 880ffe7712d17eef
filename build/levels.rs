//! The levels of `LLAMAPEN_TARGET_CPU=dispatch`: the CPU backend is compiled once for each, and the best that the machine has is
//! chosen at run time (`src/native/dispatch`).

use crate::compile;
use crate::target::Level;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From the least to the best. What a level adds must be in `src/native/dispatch/cpu_features.h`, or it is chosen where it is not
/// there. Newer instructions (AMX, AVX512-FP16) are missing because no machine that has them was there to try.
pub const LEVELS: [(&str, &[&str]); 6] = [
    ("x86-64-v2", &["-march=x86-64-v2"]),
    // Haswell, Zen
    ("x86-64-v3", &["-march=x86-64-v3"]),
    // Alder Lake
    ("x86-64-v3-vnni", &["-march=x86-64-v3", "-mavxvnni"]),
    // Skylake-X
    ("x86-64-v4", &["-march=x86-64-v4"]),
    // Cascade Lake, Ice Lake
    ("x86-64-v4-vnni", &["-march=x86-64-v4", "-mavx512vnni"]),
    // Zen 4, Sapphire Rapids
    ("x86-64-v4-bf16", &["-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi", "-mgfni", "-mavx512bf16"]),
];

/// The files of ours that a build with levels has more: one in each level, the others once.
pub const IN_EACH: &str = "src/native/dispatch/level.c";
pub const ONCE: [&str; 2] = ["src/native/dispatch/choose.c", "src/native/dispatch/forward.S"];

/// The only name of a level that the rest sees: its table.
pub fn table(level: &Level) -> String {
    format!("llamapen_cpu_{}", level.id())
}

/// `levels.h`, which `choose.c` reads.
pub fn header(levels: &[Level]) -> String {
    levels.iter().map(|level| format!("LEVEL({})\n", table(level))).collect()
}

/// What the files of a level are compiled with, besides its instructions.
pub fn configure(build: &mut cc::Build, level: &Level) {
    build.define("LP_CPU_TABLE", table(level).as_str());
    build.define("LP_CPU_LEVEL", format!("{:?}", level.name).as_str());
    // gcc's unique symbols would be shared by all levels, as if they were global; other compilers have none.
    build.flag_if_supported("-fno-gnu-unique");
}

/// Makes one object of a level's, in which only its table is global.
///
/// This is what keeps the instructions of a level inside it: inline functions and templates, of which each object has a copy that
/// the linker could take for all, become the level's own, and nothing of it runs before it is chosen.
pub fn combine(level: &Level, objects: &[PathBuf], work: &Path) -> Result<PathBuf, String> {
    let (whole, closed) = (work.join(format!("{}-whole.o", level.id())), work.join(format!("{}.o", level.id())));
    let compiler = compile::base(false).get_compiler();
    let mut link = compiler.to_command();
    link.args(["-r", "-nostdlib", "-Wl,--force-group-allocation", "-o"]).arg(&whole).args(objects);
    run(&mut link, "GNU ld, of binutils 2.29 or newer, puts a level together")?;
    let mut close = Command::new(tool(&compiler, "OBJCOPY", "objcopy"));
    close.arg(format!("--keep-global-symbol={}", table(level))).args([&whole, &closed]);
    run(&mut close, "objcopy, of binutils, hides its symbols")?;

    let sections = run(Command::new(tool(&compiler, "OBJDUMP", "objdump")).arg("-h").arg(&closed), "objdump")?;
    let forbidden = [".init_array", ".ctors", ".preinit_array", ".group"];
    if let Some(section) = sections.split_whitespace().find(|word| forbidden.iter().any(|name| word.starts_with(name)))
    {
        return Err(format!(
            "level {} has a section {section}: code that runs when the library is loaded, or that is shared with other levels. \
             Give static variables of the CPU kernels constant values, or put them inside functions",
            level.name
        ));
    }
    let symbols = run(Command::new(tool(&compiler, "NM", "nm")).arg(&closed), "nm")?;
    // Those that are defined have an address before their kind; a small letter is a local one, but for unique and weak ones.
    let visible: Vec<_> = symbols
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, kind, name] if kind.starts_with(char::is_uppercase) || "uvwi".contains(kind) => Some(name),
            _ => None,
        })
        .collect();
    match visible[..] == [table(level)] {
        true => Ok(closed),
        false => Err(format!("level {} shows {visible:?}, not only its table", level.name)),
    }
}

/// The one that the environment names, else the compiler's.
fn tool(compiler: &cc::Tool, variable: &str, name: &str) -> PathBuf {
    println!("cargo::rerun-if-env-changed={variable}");
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let printed = Command::new(compiler.path()).arg(format!("-print-prog-name={name}")).output();
    let path = printed.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    path.filter(|path| !path.is_empty()).unwrap_or_else(|| name.into()).into()
}

fn run(command: &mut Command, what: &str) -> Result<String, String> {
    let output = command.output();
    let failed = |why: &str| format!("LLAMAPEN_TARGET_CPU=dispatch: {what}: {why} ({command:?})");
    let output = output.map_err(|e| failed(&e.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}
