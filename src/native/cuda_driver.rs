//! NVIDIA's driver, asked for its devices. What that call does to this process is told in [`crate::device`].
//!
//! Types and numbers are cudarc's; its loader is not used: it panics where the library or a symbol is missing, takes an
//! unversioned `libcuda.so` first, which may be the toolkit's stub, and has Rust enums as results, for which an error
//! number from a newer driver would be undefined behaviour. Here the library is opened under the name that its ABI has,
//! which is also the one that the CUDA runtime opens; symbols that older drivers lack are optional; results are numbers.
//! Of the driver API only questions are bound: nothing here could create a context.

use crate::device::{BrokenDevice, ComputeMode, DeviceInfo, Devices, Driver};
use cudarc::driver::sys::{CUcomputemode, CUdevice, CUdevice_attribute, CUresult, CUuuid};
use libloading::Library;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fmt::Write;
use std::ptr;
use std::sync::OnceLock;

const LIBRARY: &str = "libcuda.so.1";

/// The driver of this machine.
pub(crate) struct CudaDriver;

impl Driver for CudaDriver {
    fn discover(&self) -> Devices {
        // Loaded once and never unloaded: the driver does not take that. A library that was missing may come later. It is
        // loaded before the cell is locked: a child that is forked meanwhile would find it locked for ever.
        static API: OnceLock<Api> = OnceLock::new();
        if API.get().is_none() {
            match Api::load() {
                Ok(api) => drop(API.set(api)),
                Err(reason) => return Devices::absent(reason),
            }
        }
        let api = API.get().expect("set above, by this thread or another");
        api.discover().unwrap_or_else(|failure| {
            let Failure { code, reason } = failure;
            Devices::failed(code, reason)
        })
    }
}

/// A call that did not succeed.
struct Failure {
    code: u32,
    reason: String,
}

/// `CUresult` as the number that it is.
type Status = c_uint;

/// The functions of the driver that are used, and no others.
struct Api {
    init: unsafe extern "C" fn(c_uint) -> Status,
    driver_version: unsafe extern "C" fn(*mut c_int) -> Status,
    count: unsafe extern "C" fn(*mut c_int) -> Status,
    get: unsafe extern "C" fn(*mut CUdevice, c_int) -> Status,
    name: unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> Status,
    total_mem: unsafe extern "C" fn(*mut usize, CUdevice) -> Status,
    attribute: unsafe extern "C" fn(*mut c_int, c_uint, CUdevice) -> Status,
    pci_bus_id: Option<unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> Status>,
    /// The GPU's, also for a slice of it.
    uuid: Option<unsafe extern "C" fn(*mut CUuuid, CUdevice) -> Status>,
    /// That of the slice, since CUDA 11.4.
    slice_uuid: Option<unsafe extern "C" fn(*mut CUuuid, CUdevice) -> Status>,
    error_name: Option<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>,
    error_string: Option<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>,
    /// Keeps what the pointers point into.
    _library: Library,
}

impl Api {
    fn load() -> Result<Self, String> {
        // SAFETY: runs the initialisers of NVIDIA's driver library, which are made for being loaded at any time.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|e| {
            // What the system's loader says is one level down.
            format!("{LIBRARY} cannot be loaded: {}", e.source().map_or_else(|| e.to_string(), ToString::to_string))
        })?;
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the field that takes it has the signature that NVIDIA's documentation gives for this name, and
                // `_library` outlives it.
                unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map(|symbol| *symbol)
                    .map_err(|_| format!("{LIBRARY} has no {}: it is no driver, or older than CUDA 3.2", $name))
            };
        }
        Ok(Self {
            init: symbol!("cuInit")?,
            driver_version: symbol!("cuDriverGetVersion")?,
            count: symbol!("cuDeviceGetCount")?,
            get: symbol!("cuDeviceGet")?,
            name: symbol!("cuDeviceGetName")?,
            total_mem: symbol!("cuDeviceTotalMem_v2")?,
            attribute: symbol!("cuDeviceGetAttribute")?,
            pci_bus_id: symbol!("cuDeviceGetPCIBusId").ok(),
            uuid: symbol!("cuDeviceGetUuid").ok(),
            slice_uuid: symbol!("cuDeviceGetUuid_v2").ok(),
            error_name: symbol!("cuGetErrorName").ok(),
            error_string: symbol!("cuGetErrorString").ok(),
            _library: library,
        })
    }

    fn discover(&self) -> Result<Devices, Failure> {
        // SAFETY: takes no pointer; may be called any number of times.
        self.check("cuInit", unsafe { (self.init)(0) })?;
        // SAFETY: for these two, the driver fills the number.
        let version = self.number("cuDriverGetVersion", |n| unsafe { (self.driver_version)(n) })?;
        // SAFETY: as above.
        let count = self.number("cuDeviceGetCount", |n| unsafe { (self.count)(n) })?;
        let mut found = Devices::present(unsigned(version), vec![]);
        for index in 0..unsigned(count) {
            match self.device(index) {
                Ok(device) => found.devices.push(device),
                Err(Failure { code, reason }) => found.broken.push(BrokenDevice::new(index, code, reason)),
            }
        }
        Ok(found)
    }

    fn device(&self, index: u32) -> Result<DeviceInfo, Failure> {
        use CUdevice_attribute as A;
        // SAFETY: the driver checks the ordinal and fills the handle, which is a plain number.
        let device = self.number("cuDeviceGet", |d| unsafe { (self.get)(d, index as c_int) })?;
        // SAFETY: for this and the next, the buffer has the length that is told, and the device is the driver's.
        let name = self.text("cuDeviceGetName", |text, n| unsafe { (self.name)(text, n, device) })?;
        let bus = self.pci_bus_id.map(|bus| {
            // SAFETY: as above.
            self.text("cuDeviceGetPCIBusId", |text, n| unsafe { bus(text, n, device) })
        });
        let mut bytes = 0usize;
        // SAFETY: the driver fills the size of its own device.
        self.check("cuDeviceTotalMem", unsafe { (self.total_mem)(&mut bytes, device) })?;
        let attribute = |attribute: CUdevice_attribute| {
            // SAFETY: the driver checks the attribute, which is a plain number, and fills the value.
            self.number("cuDeviceGetAttribute", |n| unsafe { (self.attribute)(n, attribute as c_uint, device) })
        };
        let capability = (
            unsigned(attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?),
            unsigned(attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?),
        );
        let mut info = DeviceInfo::new(index, name, bytes as u64).with_compute_capability(capability.0, capability.1);
        info.multiprocessors = unsigned(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?);
        info.integrated = attribute(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
        info.ecc = attribute(A::CU_DEVICE_ATTRIBUTE_ECC_ENABLED).ok().map(|on| on != 0);
        info.compute_mode = compute_mode(attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)?);
        info.pci_bus_id = bus.and_then(Result::ok);

        let uuid = |call: Option<unsafe extern "C" fn(*mut CUuuid, CUdevice) -> Status>| {
            let mut uuid = CUuuid { bytes: [0; 16] };
            // SAFETY: the driver fills the 16 bytes.
            (unsafe { call?(&mut uuid, device) } == 0).then_some(uuid)
        };
        let (gpu, slice) = (uuid(self.uuid), uuid(self.slice_uuid));
        info.mig = gpu.zip(slice).map(|(gpu, slice)| gpu != slice);
        let prefix = if info.mig == Some(true) { "MIG" } else { "GPU" };
        info.uuid = slice.or(gpu).map(|uuid| written(prefix, uuid));
        Ok(info)
    }

    fn number(&self, call: &str, ask: impl FnOnce(*mut c_int) -> Status) -> Result<c_int, Failure> {
        let mut number = 0;
        self.check(call, ask(&mut number))?;
        Ok(number)
    }

    fn text(&self, call: &str, ask: impl FnOnce(*mut c_char, c_int) -> Status) -> Result<String, Failure> {
        let mut buffer = [0u8; 256];
        // The last byte is not offered, so that there is an end in any case.
        self.check(call, ask(buffer.as_mut_ptr().cast(), 255))?;
        let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    fn check(&self, call: &str, status: Status) -> Result<(), Failure> {
        if status == CUresult::CUDA_SUCCESS as Status {
            return Ok(());
        }
        let ask = |ask: Option<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>| {
            let mut text: *const c_char = ptr::null();
            // SAFETY: the driver fills the pointer with a text of its own that lives as long as it does, or with null.
            let known = unsafe { ask?(status, &mut text) } == 0 && !text.is_null();
            // SAFETY: as above.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let mut reason = format!("{call} returned {status}");
        if let Some(name) = ask(self.error_name) {
            let _ = write!(reason, " ({name})");
        }
        if let Some(text) = ask(self.error_string) {
            let _ = write!(reason, ": {text}");
        }
        if let Some(remedy) = remedy(status) {
            let _ = write!(reason, ". {remedy}");
        }
        Err(Failure { code: status, reason })
    }
}

fn unsigned(number: c_int) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn compute_mode(number: c_int) -> ComputeMode {
    match unsigned(number) {
        n if n == CUcomputemode::CU_COMPUTEMODE_PROHIBITED as u32 => ComputeMode::Prohibited,
        n if n == CUcomputemode::CU_COMPUTEMODE_EXCLUSIVE_PROCESS as u32 => ComputeMode::ExclusiveProcess,
        _ => ComputeMode::Shared,
    }
}

/// As `nvidia-smi -L` writes it and `CUDA_VISIBLE_DEVICES` takes it.
fn written(prefix: &str, uuid: CUuuid) -> String {
    let mut text = String::from(prefix);
    for (i, byte) in uuid.bytes.iter().enumerate() {
        let dash = if matches!(i, 0 | 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{:02x}", *byte as u8);
    }
    text
}

/// What to do about the usual failures.
fn remedy(status: Status) -> Option<&'static str> {
    use CUresult as R;
    let remedies = [
        (
            R::CUDA_ERROR_NOT_INITIALIZED,
            "If this process was forked from one that had asked the driver: use spawn or exec instead of fork",
        ),
        (R::CUDA_ERROR_STUB_LIBRARY, "This is the toolkit's stub: take its folder out of LD_LIBRARY_PATH"),
        (R::CUDA_ERROR_NO_DEVICE, "Is CUDA_VISIBLE_DEVICES set, and does this container have the devices (--gpus)?"),
        (R::CUDA_ERROR_SYSTEM_NOT_READY, "Is nvidia-fabricmanager running?"),
        (
            R::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            "The kernel module and the driver library are of different versions: reboot, or reload the module",
        ),
        (
            R::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
            "The forward-compatibility library does not work with this GPU: take it out of LD_LIBRARY_PATH",
        ),
        (
            R::CUDA_ERROR_UNKNOWN,
            "Are the device nodes there and permitted, and the kernel modules loaded (nvidia-smi)?",
        ),
    ];
    remedies.into_iter().find(|(result, _)| *result as Status == status).map(|(_, remedy)| remedy)
}
