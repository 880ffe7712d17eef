//! What is compiled, with which defines: the same sources and definitions that llama.cpp's own CMake files choose for
//! a Release CPU build, less OpenMP, less `ggml.cpp`, which holds only a `std::terminate` hook that forks a debugger, and less
//! `ggml-threading.cpp`, which holds only ggml's critical section: `critical.c` of the pen is that.

use crate::levels;
use crate::target::{Arch, Target};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that share defines, include paths and flags. C and C++ may be mixed.
pub struct Group {
    pub name: &'static str,
    pub files: Vec<PathBuf>,
    pub includes: Vec<PathBuf>,
    pub defines: Vec<(&'static str, Option<&'static str>)>,
    /// Compiled for the target's instruction sets (the CPU kernels), once for each, or once for the baseline.
    pub arch_flags: bool,
    /// A header of ours that is read before the file.
    pub forced_include: Option<PathBuf>,
}

pub struct Sources {
    pub llama_cpp: PathBuf,
    pub groups: Vec<Group>,
    pub llama_version: String,
    pub ggml_version: String,
    pub commit: Option<String>,
    /// Every header that a group may read.
    pub headers: Vec<PathBuf>,
}

/// As in src/CMakeLists.txt (LLAMA_CORE_SOURCES): compiled one by one, the models in batches.
const LLAMA_CORE: &[&str] = &[
    "llama.cpp",
    "llama-adapter.cpp",
    "llama-arch.cpp",
    "llama-batch.cpp",
    "llama-chat.cpp",
    "llama-context.cpp",
    "llama-cparams.cpp",
    "llama-grammar.cpp",
    "llama-graph.cpp",
    "llama-hparams.cpp",
    "llama-impl.cpp",
    "llama-io.cpp",
    "llama-kv-cache.cpp",
    "llama-kv-cache-iswa.cpp",
    "llama-kv-cache-dsa.cpp",
    "llama-kv-cache-dsa-iswa.cpp",
    "llama-kv-cache-msa.cpp",
    "llama-kv-cache-dsv4.cpp",
    "llama-memory.cpp",
    "llama-memory-hybrid.cpp",
    "llama-memory-hybrid-iswa.cpp",
    "llama-memory-hybrid-idx.cpp",
    "llama-memory-recurrent.cpp",
    "llama-mmap.cpp",
    "llama-model-loader.cpp",
    "llama-model-saver.cpp",
    "llama-model.cpp",
    "llama-quant.cpp",
    "llama-sampler.cpp",
    "llama-vocab.cpp",
    "unicode-data.cpp",
    "unicode.cpp",
];
const GGML_BASE: &[&str] = &["ggml-backend.cpp", "ggml-backend-meta.cpp", "ggml-opt.cpp", "ggml-quants.c", "gguf.cpp"];
const GGML_CPU: &[&str] = &[
    "ggml-cpu.cpp",
    "repack.cpp",
    "hbm.cpp",
    "quants.c",
    "traits.cpp",
    "amx/amx.cpp",
    "amx/mmq.cpp",
    "tiled/tiled.cpp",
    "tiled/tiled-kernel.cpp",
    "binary-ops.cpp",
    "unary-ops.cpp",
    "vec.cpp",
    "ops.cpp",
    "llamafile/sgemm.cpp",
];
/// How many model files go into one translation unit, as in the vendored CMake files.
const MODELS_PER_UNIT: usize = 16;

pub fn list(root: &Path, target: &Target) -> Result<Sources, String> {
    let ours = PathBuf::from("src/isolation/pen");
    let dispatch = PathBuf::from("src/native/dispatch");
    let (src, ggml, cpu) = (root.join("src"), root.join("ggml/src"), root.join("ggml/src/ggml-cpu"));
    let (inc, ggml_inc) = (root.join("include"), root.join("ggml/include"));
    let under = |dir: &Path, names: &[&str]| names.iter().map(|n| dir.join(n)).collect::<Vec<_>>();
    let common = || vec![("_GNU_SOURCE", None), ("_XOPEN_SOURCE", Some("600")), ("GGML_SCHED_MAX_COPIES", Some("4"))];
    let cpu_defines = || {
        let mut defines = common();
        defines.extend([("GGML_USE_LLAMAFILE", None), ("GGML_USE_CPU_REPACK", None)]);
        defines
    };
    let cpu_includes = || vec![ggml.clone(), cpu.clone(), ggml_inc.clone()];

    let arch = match target.arch {
        Arch::X86 => "arch/x86",
        Arch::Arm => "arch/arm",
    };
    let mut kernels = under(&cpu, GGML_CPU);
    kernels.extend(under(&cpu.join(arch), &["quants.c", "repack.cpp"]));
    // Ours, as a part of the backend: compiled for the same instruction sets.
    let lanes = PathBuf::from("src/native/kernels");
    kernels.extend(under(&lanes, &["lanes.cpp", "buffer.cpp"]));
    // A single level is called by its own names.
    let choose = match target.dispatches() {
        true => levels::ONCE.map(PathBuf::from).to_vec(),
        false => vec![levels::ONCE[0].into()],
    };
    if target.dispatches() {
        kernels.push(levels::IN_EACH.into());
    }

    let groups = vec![
        Group {
            name: "ggml-base",
            files: under(&ggml, GGML_BASE),
            includes: vec![ggml.clone(), ggml_inc.clone()],
            defines: common(),
            arch_flags: false,
            forced_include: None,
        },
        Group {
            name: "ggml",
            files: under(&ggml, &["ggml-backend-dl.cpp", "ggml-backend-reg.cpp"]),
            includes: vec![ggml.clone(), ggml_inc.clone()],
            defines: common().into_iter().chain([("GGML_USE_CPU", None)]).collect(),
            arch_flags: false,
            forced_include: None,
        },
        Group {
            name: "ggml-cpu",
            files: kernels,
            includes: cpu_includes(),
            defines: cpu_defines(),
            arch_flags: true,
            forced_include: None,
        },
        // The thread pool: its threads belong to fault domains, and its busy-waiting yields.
        Group {
            name: "ggml-cpu-threads",
            files: vec![cpu.join("ggml-cpu.c")],
            includes: cpu_includes(),
            defines: cpu_defines().into_iter().chain([("LLAMAPEN_HOOK_THREADS", None)]).collect(),
            arch_flags: true,
            forced_include: Some(ours.join("hooks.h")),
        },
        // Large blocks and aborts.
        Group {
            name: "ggml-memory",
            files: vec![ggml.join("ggml.c")],
            includes: vec![ggml.clone(), ggml_inc.clone()],
            defines: common().into_iter().chain([("LLAMAPEN_HOOK_MEMORY", None)]).collect(),
            arch_flags: false,
            forced_include: Some(ours.join("hooks.h")),
        },
        // Weights and caches on huge pages.
        Group {
            name: "ggml-tensors",
            files: vec![ggml.join("ggml-alloc.c")],
            includes: vec![ggml.clone(), ggml_inc.clone()],
            defines: common().into_iter().chain([("LLAMAPEN_HOOK_TENSORS", None)]).collect(),
            arch_flags: false,
            forced_include: Some(ours.join("hooks.h")),
        },
        Group {
            name: "pen",
            files: under(&ours, &["pen.c", "handlers.c", "blocks.c", "critical.c", "catch.cpp", "relax.c"]),
            includes: vec![ours.clone()],
            defines: vec![("_GNU_SOURCE", None)],
            arch_flags: false,
            forced_include: None,
        },
        Group {
            name: "dispatch",
            files: choose,
            includes: vec![dispatch.clone()],
            defines: if target.dispatches() { vec![("LP_CPU_LEVELS", None)] } else { vec![] },
            arch_flags: false,
            forced_include: None,
        },
        Group {
            name: "llama",
            files: under(&src, LLAMA_CORE),
            includes: vec![src.clone(), inc.clone(), ggml_inc.clone()],
            defines: common(),
            arch_flags: false,
            forced_include: None,
        },
        Group {
            name: "llama-models",
            files: files_with(&src.join("models"), &["cpp"])?,
            includes: vec![src.clone(), src.join("models"), inc.clone(), ggml_inc.clone()],
            defines: common(),
            arch_flags: false,
            forced_include: None,
        },
    ];
    let missing = groups.iter().flat_map(|g| &g.files).find(|f| !f.is_file());
    if let Some(file) = missing {
        return Err(format!(
            "{} is missing: this llama.cpp is not the version build/sources.rs lists (CONTRIBUTING.md, \"Moving the pin\")",
            file.display()
        ));
    }

    let mut headers = Vec::new();
    for dir in [
        &src,
        &src.join("models"),
        &ggml,
        &cpu,
        &cpu.join("amx"),
        &cpu.join("tiled"),
        &cpu.join("llamafile"),
        &inc,
        &ggml_inc,
    ] {
        headers.extend(files_with(dir, &["h", "hpp", "inc"])?);
    }
    headers.extend(files_with(&ours, &["h"])?);
    headers.extend(files_with(&lanes, &["h"])?);
    match target.dispatches() {
        true => headers.extend(files_with(&dispatch, &["h"])?),
        false => headers.push(dispatch.join("choose.h")),
    }
    let llama_version = cmake_version(&root.join("CMakeLists.txt"), "LLAMA_VERSION")?;
    let ggml_version = cmake_version(&root.join("ggml/CMakeLists.txt"), "GGML_VERSION")?;
    Ok(Sources { llama_cpp: root.to_owned(), groups, llama_version, ggml_version, commit: commit(root), headers })
}

impl Sources {
    /// The two headers that CMake would configure, as (name, text).
    pub fn version_headers(&self) -> [(&'static str, String); 2] {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let text = |prefix: &str, version: &str| {
            format!("#pragma once\n#define {prefix}_VERSION \"{version}\"\n#define {prefix}_COMMIT \"{commit}\"\n")
        };
        [("llama-version.h", text("LLAMA", &self.llama_version)), ("ggml-version.h", text("GGML", &self.ggml_version))]
    }

    /// Translation units of the models group: a few files that include [`MODELS_PER_UNIT`] models each.
    pub fn units(group: &Group) -> Vec<(String, String)> {
        let include =
            |file: &PathBuf| format!("#include \"models/{}\"\n", file.file_name().expect("a file").to_string_lossy());
        let unit =
            |(i, files): (usize, &[PathBuf])| (format!("models-{i:02}.cpp"), files.iter().map(include).collect());
        group.files.chunks(MODELS_PER_UNIT).enumerate().map(unit).collect()
    }

    /// Path as it is told to the world: relative to the source it belongs to.
    pub fn relative(&self, file: &Path) -> String {
        file.strip_prefix(&self.llama_cpp).unwrap_or(file).to_string_lossy().into_owned()
    }
}

pub fn files_with(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
    let wanted = |p: &PathBuf| p.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    files.sort();
    Ok(files)
}

/// `set(NAME_MAJOR 0)` and so on, put together.
fn cmake_version(file: &Path, name: &str) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let part = |which: &str| {
        let prefix = format!("set({name}_{which} ");
        text.lines().find_map(|l| l.trim().strip_prefix(&prefix)?.strip_suffix(')').map(str::to_owned))
    };
    match (part("MAJOR"), part("MINOR"), part("PATCH")) {
        (Some(major), Some(minor), Some(patch)) => Ok(format!("{major}.{minor}.{patch}")),
        _ => Err(format!("{} states no {name}", file.display())),
    }
}

/// The commit, where the source states one: a git checkout does, the pinned package does not.
fn commit(root: &Path) -> Option<String> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = std::process::Command::new("git").arg("-C").arg(root).args(["rev-parse", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
