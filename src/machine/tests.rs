//! Machines that are not there, as folders: what their `/proc` and `/sys` would say.

use super::*;
use crate::build_info::build_info;
use crate::device::DeviceInfo;
use crate::status::Status;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A root folder.
struct Fake(TempDir);

impl Fake {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// `cores` cores of `threads` hyper-threads each, numbered as Linux does: siblings are `cores` apart.
    fn cpus(mut self, cores: u32, threads: u32, allowed: &str) -> Self {
        for cpu in 0..cores * threads {
            let siblings: Vec<_> = (0..threads).map(|t| (cpu % cores + t * cores).to_string()).collect();
            self = self.file(
                &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                siblings.join(",") + "\n",
            );
        }
        self.file("sys/devices/system/cpu/online", format!("0-{}\n", cores * threads - 1)).file(
            "proc/self/status",
            format!("Name:\tx\nVmRSS:\t  100 kB\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n"),
        )
    }

    /// The process is in this group of a version 2 hierarchy.
    fn v2(self, group: &str) -> Self {
        self.file("proc/self/cgroup", format!("0::{group}\n")).file(
            "proc/self/mountinfo",
            "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        )
    }

    fn observe(&self) -> MachineSnapshot {
        MachineSnapshot::observe_at(self.0.path(), &NotAsked)
    }

    fn read(&self) -> MemoryReading {
        MemoryReading::at(self.0.path())
    }
}

const V1_MOUNTS: &str = "\
31 22 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,relatime master:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime master:12 - cgroup cgroup rw,memory
";

#[test]
fn a_container_with_2_of_64_cores_gets_2() {
    let fake = Fake::new().cpus(64, 2, "0-127").v2("/").file("sys/fs/cgroup/cpu.max", "200000 100000\n");
    let machine = fake.observe();
    assert_eq!((machine.logical_cpus, machine.physical_cores), (128, 64));
    assert_eq!(machine.cpu_quota_millis, Some(2000));
    assert_eq!((machine.cores(), machine.cpus()), (2, 2));
}

#[test]
fn without_a_quota_cores_are_physical_and_threads_logical() {
    let machine = Fake::new().cpus(4, 2, "0-7").v2("/").file("sys/fs/cgroup/cpu.max", "max 100000\n").observe();
    assert_eq!((machine.cpu_quota_millis, machine.cores(), machine.cpus()), (None, 4, 8));
}

#[test]
fn affinity_counts_hyperthreads_of_a_core_once() {
    let cores = |allowed| {
        let machine = Fake::new().cpus(4, 2, allowed).observe();
        (machine.cores(), machine.cpus())
    };
    assert_eq!(cores("0,4"), (1, 2), "two threads of one core");
    assert_eq!(cores("0-1"), (2, 2), "two cores");
    assert_eq!(cores("2,6-7"), (2, 3));
    assert_eq!(cores("0-63"), (4, 8), "more are allowed than are online");
    let newer = Fake::new().cpus(4, 2, "0-3").file("sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1");
    assert_eq!(newer.observe().cores(), 3, "the newer name comes first");
}

#[test]
fn quotas_are_rounded_down_but_never_to_nothing() {
    for (text, millis, cores) in [
        ("50000 100000", Some(500), 1),
        ("250000 100000", Some(2500), 2),
        ("1 100000", Some(0), 1),
        ("300000", Some(3000), 3),
        ("9000000000000000000 100000", Some(90_000_000_000_000_000), 8),
        ("max", None, 8),
        ("0 100000", None, 8),
        ("100000 0", None, 8),
        ("-5 100000", None, 8),
        ("", None, 8),
        ("x y", None, 8),
    ] {
        let machine = Fake::new().cpus(8, 1, "0-7").v2("/").file("sys/fs/cgroup/cpu.max", text).observe();
        assert_eq!((machine.cpu_quota_millis, machine.cores()), (millis, cores), "{text:?}");
    }
}

#[test]
fn the_smallest_limit_on_the_way_up_counts() {
    let fake = Fake::new()
        .cpus(16, 1, "0-15")
        .v2("/kube/pod/app")
        .file("sys/fs/cgroup/kube/cpu.max", "800000 100000\n")
        .file("sys/fs/cgroup/kube/pod/cpu.max", "300000 100000\n")
        .file("sys/fs/cgroup/kube/pod/app/cpu.max", "max 100000\n")
        .file("sys/fs/cgroup/kube/memory.max", "1000000\n")
        .file("sys/fs/cgroup/kube/memory.high", "max\n")
        .file("sys/fs/cgroup/kube/pod/memory.max", "9000000\n")
        .file("sys/fs/cgroup/kube/pod/app/memory.max", "max\n")
        // Another group's limit is not ours.
        .file("sys/fs/cgroup/kube/other/cpu.max", "100000 100000\n")
        .file("sys/fs/cgroup/kube/other/memory.max", "1\n");
    let machine = fake.observe();
    assert_eq!((machine.cores(), machine.memory_limit_bytes), (3, Some(1_000_000)));
    let throttled = fake.file("sys/fs/cgroup/kube/pod/app/memory.high", "700000\n");
    assert_eq!(throttled.observe().memory_limit_bytes, Some(700_000));
}

#[test]
fn version_1_in_a_container_that_sees_the_hosts_path() {
    let fake = Fake::new()
        .cpus(8, 1, "0-7")
        .file("proc/self/cgroup", "5:memory:/docker/abc/in\n4:cpu,cpuacct:/docker/abc/in\n1:name=systemd:/docker/abc\n")
        .file("proc/self/mountinfo", V1_MOUNTS)
        .file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n")
        .file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n")
        .file("sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_quota_us", "-1\n")
        .file("sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_period_us", "100000\n")
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000\n")
        .file("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000000\n")
        .file("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 500000\n")
        .file("sys/fs/cgroup/memory/in/memory.limit_in_bytes", "9223372036854771712\n");
    let machine = fake.observe();
    assert_eq!((machine.cpu_quota_millis, machine.memory_limit_bytes), (Some(5000), Some(5_000_000)));
    let reading = fake.read();
    assert_eq!((reading.cgroup_used_bytes, reading.cgroup_left_bytes), (Some(3_000_000), Some(2_500_000)));
    // Version 1 has no word for no limit.
    let unlimited = fake.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!((unlimited.observe().memory_limit_bytes, unlimited.read().cgroup_left_bytes), (None, None));
}

#[test]
fn both_versions_side_by_side() {
    let fake = Fake::new()
        .cpus(8, 1, "0-7")
        .file("proc/self/cgroup", "4:memory:/a\n0::/b\n")
        .file(
            "proc/self/mountinfo",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "7000\n")
        .file("sys/fs/cgroup/unified/b/cpu.max", "100000 100000\n");
    let machine = fake.observe();
    assert_eq!((machine.cpu_quota_millis, machine.memory_limit_bytes), (Some(1000), Some(7000)));
}

#[test]
fn a_group_outside_of_what_is_mounted_is_the_mount_point() {
    for group in ["/../other", "/system.slice/docker-abc.scope"] {
        let fake = Fake::new()
            .cpus(8, 1, "0-7")
            .v2(group)
            .file("sys/fs/cgroup/cpu.max", "200000 100000\n")
            .file("sys/fs/other/cpu.max", "100000 100000\n");
        assert_eq!(fake.observe().cores(), 2, "{group}");
    }
    // Spaces in mount points are written as octal numbers, and without a list of mounts the usual places are tried.
    let spaced = Fake::new()
        .cpus(8, 1, "0-7")
        .file("proc/self/mountinfo", "30 22 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n")
        .file("my groups/cpu.max", "300000 100000\n");
    assert_eq!(spaced.observe().cores(), 3);
    let bare = Fake::new()
        .cpus(8, 1, "0-7")
        .file("proc/self/cgroup", "0::/a\n")
        .file("sys/fs/cgroup/a/cpu.max", "400000 100000\n");
    assert_eq!(bare.observe().cores(), 4);
}

#[test]
fn memory_and_limits() {
    let limits = "\
Limit                     Soft Limit           Hard Limit           Units     
Max data size             unlimited            unlimited            bytes     
Max locked memory         8388608              9999999999           bytes     
Max address space         17179869184          unlimited            bytes     
";
    let fake = Fake::new()
        .file(
            "proc/meminfo",
            "MemTotal:       16384 kB\nMemFree: 5 kB\nMemAvailable:    8192 kB\nSwapTotal: 99999 kB\n",
        )
        .file("proc/self/limits", limits);
    let machine = fake.observe();
    assert_eq!((machine.ram_bytes, machine.memory_bytes()), (Some(16 << 20), Some(16 << 20)));
    assert_eq!(machine.memlock_limit_bytes, Some(8 << 20));
    assert_eq!((machine.address_space_limit_bytes, machine.data_limit_bytes), (Some(16 << 30), None));
    let reading = fake.read();
    assert_eq!((reading.available_bytes, reading.free_bytes()), (Some(8 << 20), Some(8 << 20)));
    assert_eq!(machine.clone().with_memory_limit_bytes(Some(1 << 20)).memory_bytes(), Some(1 << 20));

    // The capability lifts the limit, but not inside a user namespace.
    let capable =
        fake.file("proc/self/status", "CapEff:\t0000000000004000\n").file("proc/self/uid_map", " 0 0 4294967295\n");
    assert_eq!(capable.observe().memlock_limit_bytes, None);
    let inside = capable.file("proc/self/uid_map", "         0       1000          1\n");
    assert_eq!(inside.observe().memlock_limit_bytes, Some(8 << 20));
}

#[test]
fn what_is_left_in_a_group_counts_idle_file_pages_as_free() {
    let fake = Fake::new()
        .v2("/a")
        .file("proc/meminfo", "MemAvailable: 8192 kB\n")
        .file("sys/fs/cgroup/a/memory.max", "1000000\n")
        .file("sys/fs/cgroup/a/memory.current", "900000\n")
        .file("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300000\nactive_file 2\n");
    let reading = fake.read();
    assert_eq!((reading.cgroup_used_bytes, reading.cgroup_left_bytes), (Some(900_000), Some(400_000)));
    assert_eq!(reading.free_bytes(), Some(400_000));
    // More in use than the limit allows: nothing is left. More idle than used: no more than the limit.
    assert_eq!(fake.file("sys/fs/cgroup/a/memory.current", "2000000").read().cgroup_left_bytes, Some(0));
}

const X86: &str = "processor\t: 0\nmodel name\t: Test CPU 3000\nflags\t\t: fpu sse sse2 pni ssse3 sse4_1 sse4_2 avx avx2 fma \
    f16c bmi1 bmi2 avx512f avx512_vnni avx_vnni amx_tile\nbugs\t\t:\n\nprocessor\t: 1\nflags\t\t: fpu\n";
const ARM: &str =
    "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16 sve\nCPU part\t: 0xd40\n\n";

fn build(features: &'static [&'static str]) -> BuildInfo {
    BuildInfo { cpu_features: features, ..build_info() }
}

#[test]
fn instruction_sets_under_the_compilers_names() {
    let x86 = Fake::new().file("proc/cpuinfo", X86).observe();
    assert_eq!(x86.cpu_model.as_deref(), Some("Test CPU 3000"));
    let has = x86.cpu_features.as_ref().unwrap();
    for name in ["AVX", "AVX2", "FMA", "F16C", "BMI2", "SSE3", "SSE4_2", "AVX512F", "AVX512VNNI", "AVXVNNI", "AMX_TILE"]
    {
        assert!(has.contains(name), "{name}");
    }
    assert!(x86.missing_cpu_features(&build(&["AVX2", "FMA", "SSE_MATH", "AVXVNNIINT8"])).is_empty());
    assert_eq!(
        x86.missing_cpu_features(&build(&["AVX512VBMI", "AVX2", "AMX_INT8", "AVX512BW"])),
        ["AMX_INT8", "AVX512BW", "AVX512VBMI"]
    );

    let arm = Fake::new().file("proc/cpuinfo", ARM).observe();
    assert_eq!(arm.cpu_model, None);
    let needed = build(&["ARM_FEATURE_DOTPROD", "ARM_FEATURE_MATMUL_INT8", "ARM_FEATURE_SVE", "ARM_FEATURE_SVE2"]);
    assert_eq!(arm.missing_cpu_features(&needed), ["ARM_FEATURE_SVE2"]);

    // No answer is not a no.
    let unknown = Fake::new().observe();
    assert_eq!(unknown.cpu_features, None);
    assert!(unknown.missing_cpu_features(&build(&["AVX2"])).is_empty());
    assert_eq!(MachineSnapshot::new(1, 1).with_cpu_features(["SSE"]).missing_cpu_features(&build(&["AVX2"])), ["AVX2"]);
}

#[test]
fn nothing_there_or_garbage_everywhere_falls_back_without_a_panic() {
    let fallback = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let nothing = Fake::new();
    assert_eq!((nothing.observe().logical_cpus, nothing.observe().physical_cores), (fallback, fallback));
    assert_eq!(nothing.observe().with_cpus(1, 1), MachineSnapshot::new(1, 0).with_ram_bytes(None));
    assert_eq!(nothing.read(), MemoryReading::default());

    let files = [
        "proc/self/status",
        "proc/self/cgroup",
        "proc/self/mountinfo",
        "proc/self/limits",
        "proc/self/uid_map",
        "proc/meminfo",
        "proc/cpuinfo",
        "sys/devices/system/cpu/online",
        "sys/fs/cgroup/cpu.max",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.high",
        "sys/fs/cgroup/memory.current",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let garbage: [&[u8]; 7] = [
        b"",
        b"\0\0\0",
        b"\xff\xfe 0-",
        b"99999999999999999999999",
        b"-1\n",
        b": : :\n - \n::",
        b"CapEff:\nMemTotal: kB\nflags:\nCpus_allowed_list:\t9-1\n",
    ];
    for text in garbage {
        let fake = files.iter().fold(Fake::new(), |fake, file| fake.file(file, text));
        let machine = fake.observe();
        assert_eq!(
            (machine.logical_cpus, machine.cpu_quota_millis, machine.ram_bytes),
            (fallback, None, None),
            "{text:?}"
        );
        assert!(machine.cores() >= 1);
        fake.read();
    }
}

#[test]
fn json_is_stable_and_refuses_what_it_does_not_know() {
    let machine = Fake::new()
        .cpus(4, 2, "0-7")
        .file("proc/cpuinfo", X86)
        .observe()
        .with_devices(Devices::present(13000, vec![DeviceInfo::new(0, "A", 80 << 30).with_compute_capability(9, 0)]));
    let json = machine.to_json();
    assert_eq!(MachineSnapshot::from_json(&json).unwrap(), machine);
    assert_eq!(MachineSnapshot::from_json(&json).unwrap().to_json(), json);
    for (old, new, part) in [
        ("\"schema\":1", "\"schema\":2", "its schema is 2"),
        ("\"schema\":1", "\"schema\":1,\"x\":1", "unknown field `x`"),
        ("\"integrated\"", "\"integratedd\"", "integratedd"),
    ] {
        assert!(json.contains(old), "{json}");
        let error = MachineSnapshot::from_json(&json.replace(old, new)).unwrap_err();
        assert_eq!(error.status(), Status::InvalidParams);
        assert!(error.to_string().contains(part), "{error}");
    }
}

const LEVELS: &[CpuLevel] = &[
    CpuLevel { name: "low", flags: &[], features: &["SSE3", "SSE_MATH"] },
    CpuLevel { name: "vnni", flags: &[], features: &["SSE3", "AVX2", "AVXVNNI"] },
    CpuLevel { name: "high", flags: &[], features: &["SSE3", "AVX2", "AVX512F"] },
];

#[test]
fn the_level_of_the_kernels_is_the_best_that_the_cpu_has() {
    let build = BuildInfo { cpu_features: LEVELS[0].features, cpu_levels: LEVELS, ..build_info() };
    let name = |machine: &MachineSnapshot| machine.level_of(&build).unwrap().unwrap().name;
    let with = |features: &[&str]| MachineSnapshot::new(1, 1).with_cpu_features(features.iter().copied());
    assert_eq!(name(&with(&["SSE3", "AVX2", "AVX512F"])), "high");
    assert_eq!(name(&with(&["SSE3", "AVX2", "AVXVNNI", "AVX512F"])), "high");
    assert_eq!(name(&with(&["SSE3", "AVX2", "AVXVNNI"])), "vnni");
    assert_eq!(name(&with(&["SSE3", "AVX2"])), "low");
    assert_eq!(name(&MachineSnapshot::new(1, 1)), "high", "no answer is not a no");
    let none = with(&["SSE"]);
    assert_eq!((name(&none), none.missing_cpu_features(&build)), ("low", vec!["SSE3".into()]));

    let asked = |level: &str| with(&["SSE3", "AVX2", "AVX512F"]).with_cpu_level(level);
    assert_eq!(name(&asked("low")), "low");
    assert_eq!(asked("low").kernel_features(&build).unwrap(), LEVELS[0].features);
    for (level, why) in [("vnni", "needs AVXVNNI, which this CPU lacks"), ("other", "which are low, vnni, high")] {
        let error = asked(level).level_of(&build).unwrap_err();
        assert_eq!(error.status(), Status::InvalidParams);
        assert!(error.to_string().contains(level) && error.to_string().contains(why), "{error}");
    }

    // A build with one level has nothing to choose, whatever a snapshot from elsewhere says.
    let single = BuildInfo { cpu_levels: &[], ..build };
    assert_eq!(asked("other").level_of(&single).unwrap(), None);
    assert_eq!(asked("other").kernel_features(&single).unwrap(), single.cpu_features);
    assert_eq!(MachineSnapshot::from_json(&asked("low").to_json()).unwrap(), asked("low"));
    assert!(!with(&["SSE3"]).to_json().contains("cpu_level"), "older versions read it");
}

#[test]
fn this_machine() {
    let machine = MachineSnapshot::observe_host();
    assert_eq!(machine, MachineSnapshot::observe_host(), "stable");
    assert!(machine.cores() >= 1 && machine.cores() <= machine.cpus());
    assert!(machine.ram_bytes.unwrap() > 1 << 20);
    // This test runs on what was built for it.
    assert!(machine.missing_cpu_features(&build_info()).is_empty(), "{machine:?}");
    let reading = MemoryReading::now();
    assert!(reading.available_bytes.unwrap() <= machine.ram_bytes.unwrap());
    assert!(reading.resident_bytes.unwrap() > 1 << 16);
}

/// Where descriptors point to, of this process; other tests open and close theirs meanwhile.
fn open_below(roots: &[&str]) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    all.filter(|path| roots.iter().any(|root| path.starts_with(root))).collect()
}

#[test]
fn observing_leaves_nothing_open() {
    let fake = Fake::new().cpus(8, 2, "0-15").v2("/").file("proc/cpuinfo", X86).file("sys/fs/cgroup/cpu.max", "max");
    let machines: Vec<_> = (0..20).map(|_| fake.observe()).collect();
    assert!(machines.iter().all(|machine| *machine == machines[0]));
    fake.read();
    let open = open_below(&[fake.0.path().to_str().unwrap()]);
    assert!(open.is_empty(), "{open:?}");
}
