//! Where the CUDA toolkit is, and whether it can compile the kernels here. Pure questions about files, so that tests can ask
//! them of a toolkit that is none (`tests/cuda_toolkit.rs`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest release whose runtime and kernels this is compiled with.
const OLDEST: u32 = 12_000;

/// Variables that name a toolkit, in the order in which they are asked. One that is set is a must: nothing else is tried.
pub const VARIABLES: [&str; 3] = ["LLAMAPEN_CUDA_ROOT", "CUDA_HOME", "CUDA_PATH"];

const HOW: &str = "Any one of these gives a toolkit:\n  \
    scripts/cuda-toolkit                    (NVIDIA's Python packages, no root needed; prints a folder)\n  \
    https://developer.nvidia.com/cuda-downloads\n  \
    LLAMAPEN_CUDA_ROOT=/folder/of/the/toolkit";

#[derive(Debug, PartialEq, Eq)]
pub struct Toolkit {
    pub root: PathBuf,
    /// 1000 · major + 10 · minor: 13000 is CUDA 13.0.
    pub version: u32,
    pub nvcc: PathBuf,
    pub include: PathBuf,
    /// `libcudart_static.a`: the runtime becomes a part of what is built.
    pub cudart: PathBuf,
    /// `libcublas.so` under whatever name: too large to become a part, looked for at run time.
    pub cublas: PathBuf,
    /// The newest major version of gcc that its nvcc takes.
    pub newest_gcc: Option<u32>,
}

/// What there is to be looked at: the environment, and the root of the file system.
pub struct Place<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    pub root: &'a Path,
}

impl Place<'_> {
    /// The toolkit to be used.
    ///
    /// # Errors
    /// Why there is none, and what gives one.
    pub fn toolkit(&self) -> Result<Toolkit, String> {
        for name in VARIABLES {
            if let Some(root) = (self.variable)(name).filter(|root| !root.is_empty()) {
                return Toolkit::at(Path::new(&root))
                    .map_err(|why| format!("{name} is {}: {why}", Path::new(&root).display()));
            }
        }
        let found = self.on_path().into_iter().chain(self.usual());
        let mut refused = Vec::new();
        for root in found {
            match Toolkit::at(&root) {
                Ok(toolkit) => return Ok(toolkit),
                Err(why) => refused.push(format!("  {}: {why}\n", root.display())),
            }
        }
        let tried = match refused.is_empty() {
            true => String::new(),
            false => format!("These are none that can be used:\n{}", refused.concat()),
        };
        Err(format!(
            "the `cuda` feature needs the CUDA toolkit, and none was found: no {}, no nvcc in PATH, \
             no /usr/local/cuda* and no /opt/cuda.\n{tried}{HOW}",
            VARIABLES.join(", no ")
        ))
    }

    /// `…/bin/nvcc`, links followed: distributions link one into /usr/bin.
    fn on_path(&self) -> Option<PathBuf> {
        let path = (self.variable)("PATH")?;
        let nvcc = std::env::split_paths(&path).map(|dir| dir.join("nvcc")).find(|nvcc| nvcc.is_file())?;
        let nvcc = nvcc.canonicalize().ok()?;
        Some(nvcc.parent()?.parent()?.to_owned())
    }

    /// `/usr/local/cuda`, which an administrator points at one, then the newest beside it.
    fn usual(&self) -> Vec<PathBuf> {
        let local = self.root.join("usr/local");
        let numbers = |dir: &PathBuf| -> Vec<u32> {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.trim_start_matches("cuda-").split('.').map_while(|number| number.parse().ok()).collect()
        };
        let mut versions: Vec<_> = fs::read_dir(&local).into_iter().flatten().flatten().map(|e| e.path()).collect();
        versions.retain(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
        versions.sort_by_key(|dir| std::cmp::Reverse(numbers(dir)));
        let all = [local.join("cuda")].into_iter().chain(versions).chain([self.root.join("opt/cuda")]);
        all.filter(|dir| dir.is_dir()).collect()
    }
}

impl Toolkit {
    /// That in `root`: an installed one, or NVIDIA's Python packages unpacked over one another.
    fn at(root: &Path) -> Result<Self, String> {
        let missing = |what: &str, package: &str| format!("it has no {what} ({package} of the toolkit is missing)");
        let first = |places: &[&str], names: &[&str]| -> Option<PathBuf> {
            let roots = [root.to_owned(), root.join(TARGET)];
            let folders = roots.iter().flat_map(|root| places.iter().map(|place| root.join(place)));
            folders.flat_map(|folder| names.iter().map(move |name| folder.join(name))).find(|file| file.exists())
        };
        let (includes, libraries) = (["include"], ["lib64", "lib"]);
        let nvcc = first(&["bin"], &["nvcc"]).ok_or_else(|| missing("bin/nvcc", "the compiler"))?;
        let header = first(&includes, &["cuda.h"]).ok_or_else(|| missing("include/cuda.h", "the runtime"))?;
        let include = header.parent().expect("a file has a folder").to_owned();
        let version =
            define(&header, "CUDA_VERSION").ok_or_else(|| format!("{} states no CUDA_VERSION", header.display()))?;
        if version < OLDEST {
            return Err(format!("it is CUDA {}, and {} or newer is needed", dotted(version), dotted(OLDEST)));
        }
        first(&includes, &["cublas_v2.h"]).ok_or_else(|| missing("include/cublas_v2.h", "cublas"))?;
        let cudart = first(&libraries, &["libcudart_static.a"])
            .ok_or_else(|| missing("lib64/libcudart_static.a", "the runtime"))?;
        let names = [format!("libcublas.so.{}", version / 1000), "libcublas.so".into()];
        let cublas = first(&libraries, &names.each_ref().map(String::as_str))
            .ok_or_else(|| missing(&format!("lib64/{}", names[0]), "cublas"))?;
        // Beside other headers, or below crt: both are looked at, whichever release it is.
        let newest_gcc = first(&includes, &["crt/host_config.h", "host_config.h"]).and_then(|file| newest_gcc(&file));
        Ok(Self { root: root.to_owned(), version, nvcc, include, cudart, cublas, newest_gcc })
    }

    pub fn dotted(&self) -> String {
        dotted(self.version)
    }

    /// Whether its nvcc takes a host compiler, given what that says of itself (`gcc -dM -E -x c++ /dev/null`).
    ///
    /// # Errors
    /// It does not, and what to do.
    pub fn takes(&self, compiler: &str, macros: &str) -> Result<(), String> {
        let number = |name: &str| {
            macros
                .lines()
                .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.trim().parse::<u32>().ok())
        };
        // Of clang nvcc knows other limits; it says itself what it does not take.
        if number("__clang_major__ ").is_some() {
            return Ok(());
        }
        let (Some(gcc), Some(newest)) = (number("__GNUC__ "), self.newest_gcc) else { return Ok(()) };
        if gcc <= newest {
            return Ok(());
        }
        Err(format!(
            "{compiler} is gcc {gcc}, and the nvcc of CUDA {} takes gcc up to {newest}.\n\
             Set CXX to an older one (such as g++-{newest}), or use a newer toolkit.",
            self.dotted()
        ))
    }
}

/// Where installed toolkits keep what is of one kind of machine.
const TARGET: &str = if cfg!(target_arch = "aarch64") { "targets/sbsa-linux" } else { "targets/x86_64-linux" };

fn dotted(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn define(header: &Path, name: &str) -> Option<u32> {
    let text = fs::read_to_string(header).ok()?;
    text.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.trim().parse().ok())
}

/// nvcc refuses a gcc by a line of this header: `#if __GNUC__ > 15`.
fn newest_gcc(header: &Path) -> Option<u32> {
    let text = fs::read_to_string(header).ok()?;
    text.lines().find_map(|line| line.trim().strip_prefix("#if __GNUC__ >")?.trim().parse().ok())
}
