//! `libllamapen-cuda.so`: llama.cpp's CUDA backend, a library of its own that is opened when a plan has devices, and then for
//! good. What it needs, the CUDA runtime is in it; cublas, half a gigabyte, is looked for.

use super::{NativeError, NativeStatus, error, sys};
use crate::build_info;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Its file.
const LIBRARY: &str = "libllamapen-cuda.so";

/// Names it, where it is nowhere else.
const VARIABLE: &str = "LLAMAPEN_CUDA_LIBRARY";

/// Folders of a toolkit, or of NVIDIA's Python packages unpacked, whose `lib64` or `lib` has cublas.
const ROOTS: [&str; 3] = ["LLAMAPEN_CUDA_ROOT", "CUDA_HOME", "CUDA_PATH"];

/// As `src/native/cuda/backend.h` has them.
#[repr(C)]
struct Host {
    engine_digest: *const c_char,
    abort: unsafe extern "C" fn(*const c_char),
    log: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
}
type Start = unsafe extern "C" fn(*const Host, *mut *const c_char) -> *mut c_void;

/// Where it is: named by [`VARIABLE`], or beside the file that this code is in. Nothing is opened.
///
/// # Errors
/// Where it was looked for.
pub(crate) fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(named);
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("{VARIABLE} is {}, where no file is", path.display())),
        };
    }
    let ours = crate::isolation::child::own_file();
    // Tests and examples of Cargo are a folder below.
    let folders = ours.iter().flat_map(|file| file.ancestors().skip(1).take(2));
    let places: Vec<_> = folders.map(|folder| folder.join(LIBRARY)).collect();
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        format!("there is no {}; {VARIABLE} can name it", places.join(" and no "))
    })
}

/// Opens it and makes its devices known to llama.cpp, once per process. In the process that is to use them: from then on CUDA
/// is initialised there.
pub(crate) fn start() -> Result<(), NativeError> {
    static DONE: OnceLock<Result<(), NativeError>> = OnceLock::new();
    let failed = |message: String| NativeError { status: NativeStatus::Failed, message };
    DONE.get_or_init(|| {
        let path = find().map_err(failed)?;
        let library = open(&path).map_err(|why| failed(format!("{} cannot be opened: {why}", path.display())))?;
        register(&library).map_err(|why| failed(format!("{}: {why}", path.display())))?;
        // For good: it has threads, exit handlers and the devices that llama.cpp knows.
        std::mem::forget(library);
        Ok(())
    })
    .clone()
}

fn open(path: &Path) -> Result<Library, String> {
    let first = match open_one(path) {
        Err(why) if why.contains("libcublas") => why,
        other => return other,
    };
    for folder in cublas_folders(path) {
        let Some(cublas) = cublas_in(&folder) else { continue };
        // The loader takes what is open already under the same name.
        match open_one(&cublas) {
            Ok(cublas) => std::mem::forget(cublas),
            Err(why) => return Err(format!("{}: {why}", cublas.display())),
        }
        return open_one(path);
    }
    Err(format!(
        "{first}. cublas is a part of the CUDA toolkit, and of NVIDIA's Python package nvidia-cublas: put it beside this \
         library, or name its toolkit in LLAMAPEN_CUDA_ROOT"
    ))
}

fn open_one(path: &Path) -> Result<Library, String> {
    // SAFETY: runs the initialisers of our own library, or of NVIDIA's, which are made for being opened at any time.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        // What the system's loader says is one level down.
        .map_err(|e| e.source().map_or_else(|| e.to_string(), ToString::to_string))
}

/// Where cublas may be.
fn cublas_folders(library: &Path) -> Vec<PathBuf> {
    let named = ROOTS.iter().filter_map(|name| std::env::var_os(name).filter(|root| !root.is_empty()));
    let roots = named.map(PathBuf::from).chain(["/usr/local/cuda".into(), "/opt/cuda".into()]);
    let folders = roots.flat_map(|root| ["lib64", "lib"].map(|lib| root.join(lib)));
    library.parent().map(Path::to_owned).into_iter().chain(folders).collect()
}

fn cublas_in(folder: &Path) -> Option<PathBuf> {
    let file = folder.join(format!("libcublas.so.{}", build_info().cuda_version? / 1000));
    file.is_file().then_some(file)
}

fn register(library: &Library) -> Result<(), String> {
    // SAFETY: the library was built from backend.h, which gives this name that type.
    let start = unsafe { library.get::<Start>(b"llamapen_cuda_start\0") };
    let start = start.map_err(|_| format!("it is no {LIBRARY}: it has no llamapen_cuda_start"))?;
    let digest = CString::new(build_info().engine_digest).expect("hexadecimal digits");
    let host = Host { engine_digest: digest.as_ptr(), abort: sys::lp_gpu_abort, log: sys::lp_log };
    let mut why = std::ptr::null();
    // SAFETY: `host` is as backend.h has it, and its functions stay.
    let backend = unsafe { start(&host, &mut why) };
    if backend.is_null() {
        // SAFETY: it sets a text that ends with NUL and stays.
        let why = if why.is_null() { c"it says not why" } else { unsafe { CStr::from_ptr(why) } };
        return Err(why.to_string_lossy().into_owned());
    }
    #[cfg(feature = "fault-injection")]
    // SAFETY: src/native/cuda/inject.cu gives the name this type. Nothing reads the variable before there is a GPU.
    unsafe {
        sys::lp_inject_gpu = library.get(b"llamapen_cuda_fault\0").ok().map(|fault| *fault);
    }
    // SAFETY: what the library gave, for good.
    error::status(|e| unsafe { sys::lp_backend_add(backend, e) }).map_err(|e| e.to_string())
}
