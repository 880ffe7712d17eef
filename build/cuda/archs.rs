//! For which GPUs the kernels are compiled.

/// One architecture: 90 is compute capability 9.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// `90`, `120a`.
    name: String,
    /// Machine code for exactly these GPUs.
    real: bool,
    /// PTX, which the driver compiles on these GPUs and on newer ones.
    ptx: bool,
}

/// Where the build knows no GPU: machine code for the first one that most kernels are tuned for, and PTX for all newer ones.
pub const ELSEWHERE: &str = "80";

/// Reads `LLAMAPEN_CUDA_ARCHS`, spelled as CMake spells them: `90`, `80;90-real`, `75-virtual,86`.
///
/// # Errors
/// Which of them is none.
pub fn parse(text: &str) -> Result<Vec<Arch>, String> {
    let mut all = Vec::new();
    for word in text.split([',', ';', ' ']).filter(|word| !word.is_empty()) {
        let (name, real, ptx) = match word.rsplit_once('-') {
            None => (word, true, true),
            Some((name, "real")) => (name, true, false),
            Some((name, "virtual")) => (name, false, true),
            Some(_) => ("", false, false),
        };
        let number = name.trim_end_matches(['a', 'f']);
        if name.len() - number.len() > 1
            || !(2..=3).contains(&number.len())
            || !number.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(format!(
                "LLAMAPEN_CUDA_ARCHS: {word:?} is no architecture. Such are 90 (compute capability 9.0), 80-real (machine \
                 code only) and 75-virtual (PTX only), with commas between them."
            ));
        }
        // As upstream: the FP4 instructions of Blackwell are in the architecture-specific form only.
        let specific = number == name && number.len() == 3 && number.starts_with("12");
        let name = if specific { format!("{name}a") } else { name.to_owned() };
        let arch = Arch { name, real, ptx };
        if !all.contains(&arch) {
            all.push(arch);
        }
    }
    match all.is_empty() {
        true => Err("LLAMAPEN_CUDA_ARCHS names no architecture".into()),
        false => Ok(all),
    }
}

/// Those of what `nvidia-smi --query-gpu=compute_cap --format=csv,noheader` prints: machine code only, since they are here.
pub fn of_devices(printed: &str) -> Option<Vec<Arch>> {
    let numbers = printed.lines().map(|line| {
        let (major, minor) = line.trim().split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (digits(major) && digits(minor)).then(|| format!("{major}{minor}-real"))
    });
    let names = numbers.collect::<Option<Vec<_>>>()?;
    parse(&names.join(",")).ok()
}

impl Arch {
    /// What nvcc is told.
    pub fn flags(&self) -> Vec<String> {
        let name = &self.name;
        let code = match (self.real, self.ptx) {
            (true, true) => format!("[compute_{name},sm_{name}]"),
            (true, false) => format!("sm_{name}"),
            (false, _) => format!("compute_{name}"),
        };
        vec![format!("--generate-code=arch=compute_{name},code={code}")]
    }

    /// As [`parse`] reads it.
    pub fn written(&self) -> String {
        let kind = match (self.real, self.ptx) {
            (true, true) => "",
            (true, false) => "-real",
            (false, _) => "-virtual",
        };
        format!("{}{kind}", self.name)
    }
}
