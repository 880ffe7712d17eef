//! The binding to NVIDIA's driver, against a stand-in for its library: what the driver says is what is reported.
//!
//! Each case is this program again in a child process, whose `LD_LIBRARY_PATH` leads to the stand-in. A context is never
//! made: the stand-in would abort, and the binding knows no such function.

use llamapen::Status;
use llamapen::device::{ComputeMode, DeviceMask, Devices, DriverState, decide};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const MARK: &str = "devices of this process: ";

/// The child: not a test by itself.
#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let counts = || ["fd", "task"].map(|what| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count());
    let before = counts();
    let devices = Devices::discover();
    // Of the binding, that is: the real driver keeps descriptors, and is excepted.
    let real = std::env::var_os("REAL_DRIVER").is_some() && matches!(devices.driver, DriverState::Present { .. });
    assert!(counts() == before || real, "descriptors and threads: {before:?} became {:?}", counts());
    assert_eq!(Devices::discover(), devices, "asked again");
    println!("\n{MARK}{}", serde_json::to_string(&devices).unwrap());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let loaded = maps.lines().any(|line| line.contains("libcuda"));
    assert_eq!(loaded, !matches!(devices.driver, DriverState::Absent { .. }), "{maps}");
}

fn stand_in(defines: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_cuda.c");
    let status = Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
        .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(folder.path().join("libcuda.so.1"))
        .args(defines)
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success());
    folder
}

fn run(library: &Path, env: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_remove("FAKE_CUDA")
        .env_remove("FAKE_CUDA_INIT")
        .env("LD_LIBRARY_PATH", library)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn devices(library: &Path, env: &[(&str, &str)]) -> Devices {
    let output = run(library, env);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(!err.contains("panicked"), "{err}");
    let line = out.lines().find_map(|line| line.strip_prefix(MARK)).unwrap_or_else(|| panic!("{out}"));
    serde_json::from_str(line).unwrap()
}

#[test]
fn devices_are_reported_as_the_driver_tells_them() {
    let found = devices(stand_in(&[]).path(), &[]);
    assert_eq!(found.driver, DriverState::Present { version: 13000 });
    assert!(found.broken.is_empty());
    let [first, second, third] = &found.devices[..] else { panic!("{found:?}") };
    assert_eq!((first.index, first.name.as_str(), first.total_bytes), (0, "Fake GPU 0", 8 << 30));
    assert_eq!((first.compute_capability, first.multiprocessors), ((9, 0), 100));
    assert_eq!((first.integrated, first.ecc, first.mig), (false, Some(true), Some(false)));
    assert_eq!(first.uuid.as_deref(), Some("GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe0a"));
    assert_eq!(first.pci_bus_id.as_deref(), Some("0000:0a:00.0"));
    assert_eq!((second.ecc, second.compute_mode), (Some(false), ComputeMode::Prohibited));
    assert_eq!((third.integrated, third.ecc, third.total_bytes), (true, None, 24 << 30));
    assert_eq!(third.compute_capability, (9, 2));
    // And what follows from it.
    let all = decide(true, &DeviceMask::Auto, &found, true).unwrap();
    assert_eq!(all.devices, [0, 2], "the prohibited one is left out");
}

#[test]
fn a_slice_of_a_gpu_is_told_by_its_own_uuid() {
    let found = devices(stand_in(&[]).path(), &[("FAKE_CUDA", "mig")]);
    assert_eq!(found.devices[0].mig, Some(true));
    assert_eq!(found.devices[0].uuid.as_deref(), Some("MIG-01f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe0a"));
}

#[test]
fn an_old_driver_without_the_newer_functions_tells_less() {
    let found = devices(stand_in(&["-DOLD"]).path(), &[]);
    assert_eq!(found.devices.len(), 3);
    let first = &found.devices[0];
    assert_eq!((&first.uuid, &first.pci_bus_id, first.mig), (&None, &None, None));
    assert_eq!(first.name, "Fake GPU 0");
}

#[test]
fn a_library_without_a_needed_function_is_no_driver() {
    let found = devices(stand_in(&["-DNO_VERSION"]).path(), &[]);
    let DriverState::Absent { reason } = &found.driver else { panic!("{found:?}") };
    assert!(reason.contains("has no cuDriverGetVersion"), "{reason}");
}

#[test]
fn a_failing_driver_is_reported_with_its_code_and_a_remedy() {
    let library = stand_in(&[]);
    for (code, part) in [
        (
            100,
            "cuInit returned 100 (CUDA_ERROR_NO_DEVICE): no CUDA-capable device is detected. Is CUDA_VISIBLE_DEVICES",
        ),
        (999, "cuInit returned 999. Are the device nodes there"),
        (803, "of different versions: reboot"),
        (3, "use spawn or exec instead of fork"),
        (34, "the toolkit's stub"),
        // No driver of today knows it.
        (4_000_000, "cuInit returned 4000000"),
    ] {
        let found = devices(library.path(), &[("FAKE_CUDA_INIT", &code.to_string())]);
        let DriverState::Failed { code: told, reason } = &found.driver else { panic!("{found:?}") };
        assert_eq!(*told, code);
        assert!(reason.contains(part), "{reason}");
        assert!(found.devices.is_empty());
        let error = decide(true, &DeviceMask::Auto, &found, true).unwrap_err();
        assert_eq!(error.status(), Status::DeviceError);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn one_lost_device_does_not_hide_the_others() {
    let found = devices(stand_in(&[]).path(), &[("FAKE_CUDA", "lost")]);
    assert_eq!(found.devices.iter().map(|d| d.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!((found.broken[0].index, found.broken[0].code), (1, 46));
    assert!(found.broken[0].reason.contains("cuDeviceGet returned 46"), "{found:?}");
}

#[test]
fn no_visible_device_and_a_name_without_an_end() {
    let library = stand_in(&[]);
    let none = devices(library.path(), &[("FAKE_CUDA", "none")]);
    assert_eq!((none.driver, none.devices.len()), (DriverState::Present { version: 13000 }, 0));
    let unending = devices(library.path(), &[("FAKE_CUDA", "unending")]);
    assert_eq!(unending.devices[0].name, "x".repeat(255));
}

#[test]
fn no_library_is_an_answer() {
    let empty = TempDir::new().unwrap();
    let found = devices(empty.path(), &[("REAL_DRIVER", "1")]);
    match &found.driver {
        DriverState::Absent { reason } => {
            assert!(reason.contains("libcuda.so.1 cannot be loaded"), "{reason}");
            assert!(reason.contains("No such file"), "{reason}");
        }
        // This machine has a driver, in the system's folders.
        _ => assert!(found.devices.iter().all(|d| d.total_bytes > 0 && !d.name.is_empty() && d.uuid.is_some())),
    }
    let damaged = TempDir::new().unwrap();
    std::fs::write(damaged.path().join("libcuda.so.1"), "no library").unwrap();
    let found = devices(damaged.path(), &[]);
    assert!(matches!(&found.driver, DriverState::Absent { reason } if reason.contains("libcuda.so.1")), "{found:?}");
}

/// Linking the driver would keep the library from loading where there is none.
#[test]
fn nothing_links_the_driver() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("readelf").arg("-d").arg(&program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("(NEEDED)"), "{text}");
    assert!(!text.contains("libcuda") && !text.contains("libnvidia"), "{text}");
}
