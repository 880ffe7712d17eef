//! The build script's search for a CUDA toolkit, and its reading of architectures, against folders that look like one.

#[path = "../build/cuda/archs.rs"]
mod archs;
#[path = "../build/cuda/toolkit.rs"]
mod toolkit;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use toolkit::{Place, Toolkit, VARIABLES};

/// A root of a file system with toolkits in it.
struct World {
    root: TempDir,
    variables: HashMap<&'static str, OsString>,
}

impl World {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), variables: HashMap::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// A whole toolkit, with libraries in `lib`.
    fn toolkit(&self, path: &str, version: u32, lib: &str) -> PathBuf {
        let root = self.at(path);
        let write = |file: &str, text: &str| {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("bin/nvcc", "");
        write("include/cuda.h", &format!("#ifndef X\n#define CUDA_VERSION {version}\n#endif\n"));
        write("include/cublas_v2.h", "");
        write("include/crt/host_config.h", "#if defined(__GNUC__)\n#if __GNUC__ > 15\n#error no\n");
        write(&format!("{lib}/libcudart_static.a"), "");
        write(&format!("{lib}/libcublas.so.{}", version / 1000), "");
        root
    }

    fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn find(&self) -> Result<Toolkit, String> {
        let variable = |name: &str| self.variables.get(name).cloned();
        Place { variable: &variable, root: self.root.path() }.toolkit()
    }
}

#[test]
fn nothing_found_says_what_was_looked_for_and_what_gives_one() {
    let why = World::new().find().unwrap_err();
    for part in VARIABLES.iter().chain(&["nvcc in PATH", "/usr/local/cuda", "scripts/cuda-toolkit"]) {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn a_variable_is_a_must_and_comes_first() {
    let mut world = World::new();
    let (ours, usual) = (world.toolkit("ours", 13_000, "lib"), world.toolkit("usr/local/cuda", 12_080, "lib64"));
    assert_eq!(world.find().unwrap().root, usual);
    for name in VARIABLES.iter().rev() {
        let other = world.toolkit(name, 13_010, "lib64");
        world = world.set(name, &other);
        assert_eq!(world.find().unwrap().root, other, "{name}");
    }
    world = world.set("LLAMAPEN_CUDA_ROOT", &ours);
    let found = world.find().unwrap();
    assert_eq!((found.version, found.newest_gcc, found.dotted().as_str()), (13_000, Some(15), "13.0"));
    assert_eq!((found.nvcc, found.include), (ours.join("bin/nvcc"), ours.join("include")));
    assert_eq!(found.cublas, ours.join("lib/libcublas.so.13"));
    assert_eq!(found.cudart, ours.join("lib/libcudart_static.a"));
    // Set to nothing is not set; set to what is none is an error, whatever else there is.
    world = world.set("LLAMAPEN_CUDA_ROOT", "").set("CUDA_HOME", "/nowhere");
    let why = world.find().unwrap_err();
    assert!(why.contains("CUDA_HOME is /nowhere") && why.contains("bin/nvcc"), "{why}");
}

#[test]
fn nvcc_on_the_path_leads_through_links() {
    let world = World::new();
    let real = world.toolkit("opt/nvidia/cuda", 12_090, "lib64");
    let (bin, empty) = (world.at("usr/bin"), world.at("empty"));
    [&bin, &empty].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    std::os::unix::fs::symlink(real.join("bin/nvcc"), bin.join("nvcc")).unwrap();
    world.toolkit("usr/local/cuda", 12_080, "lib64");
    let path = std::env::join_paths([&empty, &bin]).unwrap();
    assert_eq!(world.set("PATH", path).find().unwrap().root, real.canonicalize().unwrap());
}

#[test]
fn of_several_the_newest_that_can_be_used() {
    let world = World::new();
    world.toolkit("usr/local/cuda-9.2", 9_020, "lib64");
    world.toolkit("usr/local/cuda-12.8", 12_080, "lib64");
    let newest = world.toolkit("usr/local/cuda-12.10", 12_100, "targets/x86_64-linux/lib");
    world.toolkit("opt/cuda", 13_000, "lib64");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(world.find().unwrap().root, newest);
    }
    fs::remove_file(newest.join("include/cublas_v2.h")).unwrap();
    assert_eq!(world.find().unwrap().version, 12_080);
}

#[test]
fn what_is_missing_or_too_old_is_named() {
    let missing = |file: &str| {
        let world = World::new();
        let root = world.toolkit("usr/local/cuda", 13_000, "lib64");
        fs::remove_file(root.join(file)).unwrap();
        world.find().unwrap_err()
    };
    for (file, part) in [
        ("bin/nvcc", "no bin/nvcc (the compiler"),
        ("include/cuda.h", "no include/cuda.h (the runtime"),
        ("include/cublas_v2.h", "(cublas of the toolkit is missing)"),
        ("lib64/libcudart_static.a", "libcudart_static.a (the runtime"),
        ("lib64/libcublas.so.13", "libcublas.so.13 (cublas"),
    ] {
        let why = missing(file);
        assert!(why.contains(part) && why.contains("usr/local/cuda"), "{file}: {why}");
    }
    let world = World::new();
    world.toolkit("usr/local/cuda", 11_080, "lib64");
    assert!(world.find().unwrap_err().contains("it is CUDA 11.8, and 12.0 or newer is needed"));
}

#[test]
fn a_host_compiler_that_nvcc_refuses_is_said_before_it_is_run() {
    let world = World::new();
    world.toolkit("usr/local/cuda", 13_000, "lib64");
    let toolkit = world.find().unwrap();
    let gcc = |major: u32| format!("#define __GNUC_MINOR__ 2\n#define __GNUC__ {major}\n");
    assert_eq!(toolkit.takes("g++", &gcc(15)), Ok(()));
    let why = toolkit.takes("/usr/bin/g++", &gcc(16)).unwrap_err();
    for part in ["/usr/bin/g++ is gcc 16", "CUDA 13.0 takes gcc up to 15", "CXX", "g++-15"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // clang says that it is gcc 4, too.
    assert_eq!(toolkit.takes("clang++", "#define __clang_major__ 21\n#define __GNUC__ 99\n"), Ok(()));
}

fn flags(text: &str) -> Vec<String> {
    archs::parse(text).unwrap().iter().flat_map(archs::Arch::flags).collect()
}

#[test]
fn architectures_as_cmake_spells_them() {
    assert_eq!(flags("90-real"), ["--generate-code=arch=compute_90,code=sm_90"]);
    assert_eq!(flags("75-virtual"), ["--generate-code=arch=compute_75,code=compute_75"]);
    assert_eq!(flags("80"), ["--generate-code=arch=compute_80,code=[compute_80,sm_80]"]);
    assert_eq!(flags("80;90a-real, 80").len(), 2, "each once");
    assert_eq!(flags("120-real"), ["--generate-code=arch=compute_120a,code=sm_120a"], "as upstream");
    let written = |text: &str| archs::parse(text).unwrap().iter().map(archs::Arch::written).collect::<Vec<_>>();
    assert_eq!(written("86-real,90,75-virtual"), ["86-real", "90", "75-virtual"]);
    assert!(archs::parse(archs::ELSEWHERE).is_ok());
    for wrong in ["", " , ", "sm_90", "9", "90-fake", "90aa", "ninety", "9000", "-real"] {
        let why = archs::parse(wrong).unwrap_err();
        assert!(why.contains("LLAMAPEN_CUDA_ARCHS"), "{wrong:?}: {why}");
    }
}

#[test]
fn architectures_of_the_devices_that_are_here() {
    let of = |printed: &str| {
        archs::of_devices(printed).map(|archs| archs.iter().map(archs::Arch::written).collect::<Vec<_>>())
    };
    assert_eq!(of("9.0\n9.0\n8.6\n").unwrap(), ["90-real", "86-real"]);
    for printed in ["", "[N/A]\n", "No devices were found\n", "9.0\nx.y\n"] {
        assert_eq!(of(printed), None, "{printed:?}");
    }
}

#[test]
fn the_search_starts_at_the_root() {
    // As the build script asks it; whatever is here, it is an answer.
    let place = Place { variable: &|_| None, root: Path::new("/") };
    assert!(place.toolkit().map_or_else(|why| why.contains("toolkit"), |found| found.version >= 12_000));
}
