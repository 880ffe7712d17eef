//! Instruction sets: the kernel's names for them, and the compiler's, which the build carries.

use super::files;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Default)]
pub(super) struct Cpu {
    pub model: Option<String>,
    pub features: Option<BTreeSet<String>>,
}

/// Compiler's macro without underscores, and the kernel's flag. Only what the kernel tells: there are macros without a
/// flag (such as `SSE_MATH`, `AVXVNNIINT8`), about which nothing can be said.
const X86: &[(&str, &str)] = &[
    ("SSE", "sse"),
    ("SSE2", "sse2"),
    ("SSE3", "pni"),
    ("SSSE3", "ssse3"),
    ("SSE4_1", "sse4_1"),
    ("SSE4_2", "sse4_2"),
    ("SSE4A", "sse4a"),
    ("AVX", "avx"),
    ("AVX2", "avx2"),
    ("FMA", "fma"),
    ("FMA4", "fma4"),
    ("F16C", "f16c"),
    ("BMI", "bmi1"),
    ("BMI2", "bmi2"),
    ("AVXVNNI", "avx_vnni"),
    ("AVX512F", "avx512f"),
    ("AVX512BW", "avx512bw"),
    ("AVX512CD", "avx512cd"),
    ("AVX512DQ", "avx512dq"),
    ("AVX512VL", "avx512vl"),
    ("AVX512ER", "avx512er"),
    ("AVX512PF", "avx512pf"),
    ("AVX512IFMA", "avx512ifma"),
    ("AVX512VBMI", "avx512vbmi"),
    ("AVX512VBMI2", "avx512_vbmi2"),
    ("AVX512VNNI", "avx512_vnni"),
    ("AVX512BITALG", "avx512_bitalg"),
    ("AVX512VPOPCNTDQ", "avx512_vpopcntdq"),
    ("AVX512BF16", "avx512_bf16"),
    ("AVX512FP16", "avx512_fp16"),
    ("AVX512VP2INTERSECT", "avx512_vp2intersect"),
    ("AMX_TILE", "amx_tile"),
    ("AMX_INT8", "amx_int8"),
    ("AMX_BF16", "amx_bf16"),
];

const ARM: &[(&str, &str)] = &[
    ("ARM_FEATURE_CRC32", "crc32"),
    ("ARM_FEATURE_ATOMICS", "atomics"),
    ("ARM_FEATURE_QRDMX", "asimdrdm"),
    ("ARM_FEATURE_FP16_SCALAR_ARITHMETIC", "fphp"),
    ("ARM_FEATURE_FP16_VECTOR_ARITHMETIC", "asimdhp"),
    ("ARM_FEATURE_FP16_FML", "asimdfhm"),
    ("ARM_FEATURE_DOTPROD", "asimddp"),
    ("ARM_FEATURE_COMPLEX", "fcma"),
    ("ARM_FEATURE_JCVT", "jscvt"),
    ("ARM_FEATURE_FRINT", "frint"),
    ("ARM_FEATURE_MATMUL_INT8", "i8mm"),
    ("ARM_FEATURE_BF16", "bf16"),
    ("ARM_FEATURE_BF16_VECTOR_ARITHMETIC", "bf16"),
    ("ARM_FEATURE_SVE", "sve"),
    ("ARM_FEATURE_SVE2", "sve2"),
    ("ARM_FEATURE_SVE_MATMUL_INT8", "svei8mm"),
    ("ARM_FEATURE_SVE_BF16", "svebf16"),
    ("ARM_FEATURE_SME", "sme"),
    ("ARM_FEATURE_SME2", "sme2"),
];

/// The first processor is enough: the file repeats itself for each, and can be long.
pub(super) fn observe(root: &Path) -> Cpu {
    let Some(text) = files::head(&root.join("proc/cpuinfo"), 8192) else { return Cpu::default() };
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let names = |table: &[(&str, &str)], flags: &str| {
        let flags: BTreeSet<_> = flags.split_whitespace().collect();
        table.iter().filter(|(_, flag)| flags.contains(flag)).map(|(name, _)| (*name).to_owned()).collect()
    };
    // A system that shows an empty list hides it.
    let flags = |key| files::field(first, key).filter(|flags| !flags.is_empty());
    Cpu {
        // Arm names its processor, if at all, at the end.
        model: files::field(first, "model name").or_else(|| files::field(rest, "Hardware")).map(str::to_owned),
        features: flags("flags").map(|f| names(X86, f)).or_else(|| flags("Features").map(|f| names(ARM, f))),
    }
}

/// What of `needed` is not in `has`, of what the kernel tells at all.
pub(super) fn missing(needed: &[&str], has: &BTreeSet<String>) -> Vec<String> {
    let told = |name: &str| X86.iter().chain(ARM).any(|(known, _)| *known == name);
    let mut missing: Vec<_> =
        needed.iter().filter(|name| told(name) && !has.contains(**name)).map(|name| (*name).to_owned()).collect();
    missing.sort();
    missing
}
