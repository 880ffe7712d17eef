//! Compiles the engine once per machine.
//!
//! The engine takes minutes to compile and changes only when its sources, flags or compiler do. So the archive is kept
//! in a cache outside the target folder, under a key over exactly those, and shared by all profiles, features, clippy
//! and checkouts. A build that finds its key links the archive and compiles nothing.

use crate::levels;
use crate::sources::{Group, Sources};
use crate::target::{Level, Target};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

pub const LIBRARY: &str = "llamapen_engine";

pub struct Engine {
    /// Over compiler, flags, defines and the contents of every source and header.
    pub digest: String,
    /// The flags, for build_info: those that all levels share.
    pub flags: Vec<String>,
}

/// CMake's Release flags, plus what a library inside someone else's process needs.
const FLAGS: &[&str] = &["-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-w"];
const FLAGS_CPP: &[&str] = &["-fvisibility-inlines-hidden"];

pub fn engine(sources: &Sources, target: &Target) -> Result<Engine, String> {
    for name in ["LLAMAPEN_CACHE_DIR", "CC", "CXX", "CFLAGS", "CXXFLAGS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for file in sources.groups.iter().flat_map(|g| &g.files).chain(&sources.headers) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    let digest = digest(sources, target)?;
    let archive = format!("lib{LIBRARY}.a");
    let cached = cache_dir(&out).join("engine").join(&digest[..32]);
    if !cached.join(&archive).is_file() {
        fill_cache(&cached, &archive, sources, target).map_err(|e| format!("compiling the engine: {e}"))?;
    }

    let linked = out.join(&archive);
    let _ = fs::remove_file(&linked);
    if fs::hard_link(cached.join(&archive), &linked).is_err() {
        fs::copy(cached.join(&archive), &linked)
            .map_err(|e| format!("cannot copy the engine to {}: {e}", linked.display()))?;
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    // Where tests/reference finds the archive and the headers it was compiled from.
    println!("cargo::rustc-env=LLAMAPEN_ENGINE_ARCHIVE={}", linked.display());
    println!("cargo::rustc-env=LLAMAPEN_LLAMA_CPP={}", sources.llama_cpp.display());

    let of_level = if target.dispatches() { &[][..] } else { &target.least().flags };
    let flags = FLAGS.iter().map(|f| f.to_string()).chain(of_level.iter().cloned()).collect();
    Ok(Engine { digest, flags })
}

/// Link order matters: the shim comes first, then the engine, then what both need.
pub fn link_engine() {
    println!("cargo::rustc-link-lib=static={LIBRARY}");
    for system in ["stdc++", "m", "pthread", "dl"] {
        println!("cargo::rustc-link-lib={system}");
    }
    // The library keeps threads and callbacks in the process: it must never be unmapped under them.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// `LLAMAPEN_CACHE_DIR`, else the user's cache folder, else (not writable) the build's own output.
pub fn cache_dir(out: &Path) -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let user = || Some(from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")))?.join("llamapen"));
    let dir = from("LLAMAPEN_CACHE_DIR").or_else(user).unwrap_or_else(|| out.to_owned());
    match fs::create_dir_all(dir.join("engine")) {
        Ok(()) => dir,
        Err(_) => out.to_owned(),
    }
}

/// A digest over parts, none of which can run into the next.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    pub fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    /// A file's name, as it is to be known, and what is in it.
    pub fn file(&mut self, name: &str, file: &Path) -> Result<(), String> {
        self.text(name);
        let bytes = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        self.text(&String::from_utf8_lossy(&bytes));
        Ok(())
    }

    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn digest(sources: &Sources, target: &Target) -> Result<String, String> {
    let mut key = Key::default();
    // The compilers as cc resolved them, with whatever CFLAGS and CXXFLAGS add.
    for is_cpp in [false, true] {
        let tool = base(is_cpp).get_compiler();
        key.text(&tool.path().file_name().unwrap_or_default().to_string_lossy());
        tool.args().iter().for_each(|arg| key.text(&arg.to_string_lossy()));
    }
    key.text(&target.compiler);
    for level in &target.levels {
        key.text(&level.name);
        key.text(&level.macros);
        key.text(&level.flags.join(" "));
    }
    for group in &sources.groups {
        key.text(group.name);
        key.text(&format!("{:?} {}", group.defines, group.arch_flags));
        group.includes.iter().for_each(|dir| key.text(&sources.relative(dir)));
    }
    for (name, contents) in sources.version_headers() {
        key.text(name);
        key.text(&contents);
    }
    for file in sources.groups.iter().flat_map(|g| &g.files).chain(&sources.headers) {
        key.file(&sources.relative(file), file)?;
    }
    Ok(key.finish())
}

/// Compiles into a temporary folder beside the cache entry and moves it there whole: no build ever sees half an engine.
fn fill_cache(cached: &Path, archive: &str, sources: &Sources, target: &Target) -> Result<(), String> {
    let io = |e: std::io::Error| format!("{}: {e}", cached.display());
    let lock = fs::File::create(cached.with_extension("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if cached.join(archive).is_file() {
        return Ok(());
    }
    let work = cached.with_extension("tmp");
    let _ = fs::remove_dir_all(&work);
    let generated = work.join("generated");
    fs::create_dir_all(&generated).map_err(io)?;
    for (name, text) in sources.version_headers() {
        fs::write(generated.join(name), text).map_err(io)?;
    }

    fs::write(generated.join("levels.h"), levels::header(&target.levels)).map_err(io)?;

    // One thread per group and level: cc shares the job server between them, so that no group waits for another's last file.
    let objects = std::thread::scope(|scope| {
        let (kernels, rest): (Vec<_>, Vec<_>) = sources.groups.iter().partition(|group| group.arch_flags);
        let once = rest.into_iter().map(|group| (vec![group], None));
        let per_level = target.levels.iter().map(|level| (kernels.clone(), Some(level)));
        let start = |(groups, level)| {
            let compile =
                Compile { sources, level, dispatches: target.dispatches(), work: &work, generated: &generated };
            scope.spawn(move || compile.all(groups))
        };
        let running: Vec<_> = once.chain(per_level).map(start).collect();
        running
            .into_iter()
            .map(|t| t.join().map_err(|_| "a compile thread panicked".to_owned())?)
            .collect::<Result<Vec<_>, _>>()
    })?;
    let finished = work.join("finished");
    fs::create_dir_all(&finished).map_err(io)?;
    cc::Build::new()
        .cargo_metadata(false)
        .out_dir(&finished)
        .objects(objects.concat())
        .try_compile(LIBRARY)
        .map_err(|e| e.to_string())?;
    let _ = fs::remove_dir_all(cached);
    fs::rename(&finished, cached).map_err(io)?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}

/// How some groups are compiled.
struct Compile<'a> {
    sources: &'a Sources,
    /// `None`: the baseline.
    level: Option<&'a Level>,
    /// Whether the level is one of several.
    dispatches: bool,
    work: &'a Path,
    generated: &'a Path,
}

impl Compile<'_> {
    /// The objects of these groups. Of one level among several they become a single one.
    fn all(&self, groups: Vec<&Group>) -> Result<Vec<PathBuf>, String> {
        let objects = groups.into_iter().map(|group| self.group(group)).collect::<Result<Vec<_>, _>>()?.concat();
        match self.level {
            Some(level) if self.dispatches => Ok(vec![levels::combine(level, &objects, self.work)?]),
            _ => Ok(objects),
        }
    }

    fn group(&self, group: &Group) -> Result<Vec<PathBuf>, String> {
        let mut files = group.files.clone();
        if group.name == "llama-models" {
            files.clear();
            for (name, text) in Sources::units(group) {
                let unit = self.generated.join(name);
                fs::write(&unit, text).map_err(|e| format!("{}: {e}", unit.display()))?;
                files.push(unit);
            }
        }
        let is_c = |f: &PathBuf| f.extension().is_some_and(|e| e == "c" || e == "S");
        let (c, cpp): (Vec<_>, Vec<_>) = files.into_iter().partition(is_c);
        let mut objects = Vec::new();
        for (files, is_cpp) in [(c, false), (cpp, true)] {
            if files.is_empty() {
                continue;
            }
            let mut build = base(is_cpp);
            build.files(files).includes(&group.includes).include(self.generated);
            for (name, value) in &group.defines {
                build.define(name, *value);
            }
            build.out_dir(self.work.join(group.name));
            if let Some(level) = self.level {
                build.flags(&level.flags).out_dir(self.work.join(level.id()).join(group.name));
                if self.dispatches {
                    levels::configure(&mut build, level);
                }
            }
            if let Some(header) = &group.forced_include {
                build.flag("-include").flag(header.canonicalize().map_err(|e| format!("{}: {e}", header.display()))?);
            }
            build.flag(format!("-ffile-prefix-map={}/=", self.sources.llama_cpp.display()));
            build.flag(format!("-ffile-prefix-map={}/=", self.generated.display()));
            objects.extend(build.try_compile_intermediates().map_err(|e| format!("group {}: {e}", group.name))?);
        }
        Ok(objects)
    }
}

/// A cc build with the engine's flags and none of cargo's profile: always optimised, without debug information.
pub fn base(is_cpp: bool) -> cc::Build {
    let mut build = cc::Build::new();
    build.cargo_metadata(false).no_default_flags(true).warnings(false).cpp(is_cpp).cpp_link_stdlib(None);
    build.flags(FLAGS);
    build.std(if is_cpp { "gnu++17" } else { "gnu11" });
    if is_cpp {
        build.flags(FLAGS_CPP);
    }
    build
}
