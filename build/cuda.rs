//! The CUDA part of the engine: llama.cpp's CUDA backend, compiled by nvcc into a shared library of its own,
//! `libllamapen-cuda.so`, which `src/native/cuda` opens when a plan has devices. Nothing else names the CUDA runtime or
//! cublas, so that what is built with the feature runs where neither they nor a driver are.
//!
//! A kernel takes seconds to minutes to compile and there are 144: each object is kept in the cache that the engine is
//! kept in, under a key over everything that it is made of, as soon as it is there.

#[path = "cuda/archs.rs"]
mod archs;
#[path = "cuda/kernels.rs"]
mod kernels;
#[path = "cuda/toolkit.rs"]
mod toolkit;

use crate::compile::{self, Key};
use crate::sources::{Group, Sources};
use crate::target::Target;
use archs::Arch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use toolkit::{Place, Toolkit};

pub const LIBRARY: &str = "libllamapen-cuda.so";

/// What build_info tells.
pub struct Cuda {
    pub version: u32,
    pub archs: String,
}

/// The argument with which the build script runs itself to compile the kernels.
pub const CHILD: &str = "cuda";

/// CMake's Release flags and those of llama.cpp's CUDA folder.
const FLAGS: &[&str] = &["-O3", "-DNDEBUG", "-std=c++17", "-use_fast_math", "-extended-lambda", "-w"];
const HOST_FLAGS: &str = "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-pedantic";

/// Compiles and links it where the feature is on. The kernels are compiled in a child process: cc finds nvcc by an environment
/// variable, and a process cannot safely change its own.
pub fn build(sources: &Sources, target: &Target, engine: &compile::Engine) -> Result<Option<Cuda>, String> {
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(None);
    }
    let plan = Plan::new(sources, target)?;
    let environment = [("NVCC", plan.toolkit.nvcc.as_os_str()), ("LLAMAPEN_CUDA_ROOT", plan.toolkit.root.as_os_str())];
    crate::run_again(CHILD, environment)
        .map_err(|said| format!("compiling the CUDA kernels with {}: {said}", plan.toolkit.nvcc.display()))?;
    let library = plan.link(sources, engine)?;
    install(&library)?;
    let archs = plan.archs.iter().map(Arch::written).collect::<Vec<_>>().join(",");
    Ok(Some(Cuda { version: plan.toolkit.version, archs }))
}

/// What the child does.
pub fn compile_here() -> Result<(), String> {
    let target = Target::resolve()?;
    let sources = crate::sources::list(&crate::vendor::locate()?, &target)?;
    Plan::new(&sources, &target)?.compile(&sources)
}

/// What is compiled, by what, for what.
struct Plan {
    toolkit: Toolkit,
    archs: Vec<Arch>,
    kernels: Group,
    flags: Vec<String>,
    /// Over everything that all objects have in common.
    common: Key,
    cache: PathBuf,
}

impl Plan {
    fn new(sources: &Sources, target: &Target) -> Result<Self, String> {
        for name in toolkit::VARIABLES.iter().chain(&["LLAMAPEN_CUDA_ARCHS"]) {
            println!("cargo::rerun-if-env-changed={name}");
        }
        let place = Place { variable: &|name| std::env::var_os(name), root: Path::new("/") };
        let toolkit = place.toolkit()?;
        let host = compile::base(true).get_compiler();
        toolkit.takes(&host.path().display().to_string(), &target.least().macros)?;
        let archs = match std::env::var("LLAMAPEN_CUDA_ARCHS") {
            Ok(text) if !text.trim().is_empty() => archs::parse(&text)?,
            _ => here().map_or_else(|| archs::parse(archs::ELSEWHERE), Ok)?,
        };
        let kernels = kernels::kernels(sources)?;

        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.extend(archs.iter().flat_map(Arch::flags));
        if toolkit.version >= 12_080 {
            flags.push("-compress-mode=size".into());
        }
        flags.push(HOST_FLAGS.into());

        let mut common = Key::default();
        common.text(&version_of(&toolkit.nvcc)?);
        common.text(&target.compiler);
        common.text(&flags.join(" "));
        common.text(&format!("{:?}", kernels.defines));
        for header in kernels::headers(sources)? {
            common.file(&sources.relative(&header), &header)?;
        }
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
        let cache = compile::cache_dir(&out).join("cuda");
        fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
        Ok(Self { toolkit, archs, kernels, flags, common, cache })
    }

    /// Where the object of this kernel is kept.
    fn object(&self, sources: &Sources, file: &Path) -> Result<PathBuf, String> {
        let mut key = self.common.clone();
        key.file(&sources.relative(file), file)?;
        Ok(self.cache.join(format!("{}.o", &key.finish()[..32])))
    }

    /// Fills the cache. As many at once as cargo allows jobs.
    fn compile(&self, sources: &Sources) -> Result<(), String> {
        let lock = fs::File::create(self.cache.join("lock")).map_err(|e| e.to_string())?;
        lock.lock().map_err(|e| e.to_string())?;
        let mut missing = Vec::new();
        for file in &self.kernels.files {
            let object = self.object(sources, file)?;
            if !object.is_file() {
                missing.push((file, object));
            }
        }
        let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).max(1);
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for worker in 0..jobs.min(missing.len()) {
                let (next, failed, missing) = (&next, &failed, &missing);
                scope.spawn(move || {
                    while failed.lock().unwrap().is_none()
                        && let Some((file, object)) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if let Err(why) = self.compile_one(sources, file, object, worker) {
                            failed.lock().unwrap().get_or_insert(format!("{}: {why}", sources.relative(file)));
                        }
                    }
                    let _ = fs::remove_dir_all(self.work(worker));
                });
            }
        });
        failed.into_inner().unwrap().map_or(Ok(()), Err)
    }

    /// Where a thread compiles: in the cache, so that what it has made is moved, not copied.
    fn work(&self, thread: usize) -> PathBuf {
        self.cache.join(format!("tmp-{thread}"))
    }

    /// Alone: with several files in one build, cc has nvcc make relocatable device code.
    fn compile_one(&self, sources: &Sources, file: &Path, object: &Path, worker: usize) -> Result<(), String> {
        let work = self.work(worker);
        let mut build = cc::Build::new();
        build.cargo_metadata(false).no_default_flags(true).warnings(false).cuda(true).cudart("none");
        build.out_dir(&work).file(file).includes(&self.kernels.includes).include(&self.toolkit.include);
        for flag in &self.flags {
            build.flag(flag);
        }
        for (name, value) in &self.kernels.defines {
            build.define(name, *value);
        }
        build.flag(format!("-Xcompiler=-ffile-prefix-map={}/=", sources.llama_cpp.display()));
        let made = build.try_compile_intermediates().map_err(|e| e.to_string())?;
        fs::rename(made.first().ok_or("no object was made")?, object).map_err(|e| e.to_string())
    }

    /// The library: the kernels, what they need of ggml, the way in, the runtime.
    ///
    /// Its copy of ggml is its own: the rest of the engine hides its symbols, in a program that has it linked statically as
    /// well. What the copy has to share, aborts and the log, it is given by the way in (`src/native/cuda/backend.cpp`).
    fn link(&self, sources: &Sources, engine: &compile::Engine) -> Result<PathBuf, String> {
        let mut key = self.common.clone();
        let mut objects = Vec::new();
        for file in &self.kernels.files {
            let object = self.object(sources, file)?;
            key.text(&object.to_string_lossy());
            objects.push(object);
        }
        let ours = ["backend.cpp", "backend.h", "driver.cpp", "exports.map"]
            .map(|name| Path::new("src/native/cuda").join(name));
        println!("cargo::rerun-if-changed=src/native/cuda");
        for file in &ours {
            key.file(&file.to_string_lossy(), file)?;
        }
        key.text(&engine.digest);
        let library = self.cache.join(&key.finish()[..32]).join(LIBRARY);
        if library.is_file() {
            return Ok(library);
        }
        let work = self.cache.join(format!("linking-{}", std::process::id()));
        fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
        let base = self.base(sources, engine, &work)?;
        let linked = work.join(LIBRARY);
        let mut command = compile::base(true).get_compiler().to_command();
        command.arg("-shared").arg("-o").arg(&linked).args(&objects).args(&base);
        command.arg(&self.toolkit.cudart).arg(&self.toolkit.cublas);
        command.arg(format!("-Wl,--version-script={}", ours[3].display()));
        // Undefined symbols are an error here, not on a user's machine. Never unmapped: the runtime registers exit handlers.
        command.args(["-Wl,--no-undefined", "-Wl,-z,nodelete", "-Wl,-s", "-Wl,-rpath,$ORIGIN"]);
        command.arg(format!("-Wl,-soname,{LIBRARY}")).args(["-lm", "-lpthread", "-ldl", "-lrt"]);
        let output = command.output().map_err(|e| format!("cannot run the C++ compiler ({command:?}): {e}"))?;
        if !output.status.success() {
            return Err(format!("linking {LIBRARY}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let folder = library.parent().expect("a file has a folder");
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        fs::rename(&linked, &library).map_err(|e| format!("{}: {e}", library.display()))?;
        let _ = fs::remove_dir_all(&work);
        Ok(library)
    }

    /// ggml without what the pen hooks, and the way in.
    fn base(&self, sources: &Sources, engine: &compile::Engine, work: &Path) -> Result<Vec<PathBuf>, String> {
        let generated = work.join("generated");
        fs::create_dir_all(&generated).map_err(|e| format!("{}: {e}", generated.display()))?;
        for (name, text) in sources.version_headers() {
            fs::write(generated.join(name), text).map_err(|e| format!("{}: {e}", generated.display()))?;
        }
        let group = kernels::base(sources);
        let mut objects = Vec::new();
        for is_cpp in [false, true] {
            let (c, cpp): (Vec<_>, Vec<_>) = group.files.iter().partition(|f| f.extension().is_some_and(|e| e == "c"));
            let mut build = compile::base(is_cpp);
            build.out_dir(work).files(if is_cpp { cpp } else { c }).includes(&group.includes).include(&generated);
            build.include(&self.toolkit.include).include("src/native/cuda");
            for (name, value) in &group.defines {
                build.define(name, *value);
            }
            build.define("LLAMAPEN_ENGINE_DIGEST", Some(format!("\"sha256:{}\"", engine.digest).as_str()));
            build.flag(format!("-ffile-prefix-map={}/=", sources.llama_cpp.display()));
            objects.extend(build.try_compile_intermediates().map_err(|e| format!("group {}: {e}", group.name))?);
        }
        Ok(objects)
    }
}

/// Beside what cargo makes, where the library that uses it looks, and in OUT_DIR, which is only ours.
fn install(library: &Path) -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    // target/<profile>/build/<package>/out
    let profile = out.ancestors().nth(3).map(Path::to_owned);
    for folder in [Some(out), profile].into_iter().flatten() {
        let here = folder.join(LIBRARY);
        let _ = fs::remove_file(&here);
        if fs::hard_link(library, &here).is_err() {
            fs::copy(library, &here).map_err(|e| format!("cannot copy {LIBRARY} to {}: {e}", here.display()))?;
        }
    }
    Ok(())
}

fn here() -> Option<Vec<Arch>> {
    let output = Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output().ok()?;
    output.status.success().then(|| archs::of_devices(&String::from_utf8_lossy(&output.stdout)))?
}

fn version_of(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|e| format!("cannot run {}: {e}. Is it executable?", nvcc.display()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{} --version fails: {}", nvcc.display(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
