//! `make vendor`: runs the build script's step that fills vendor/llama.cpp, and nothing else of the build.
//! That step speaks to cargo on stdout, which `make vendor` throws away.

#[path = "../build/vendor.rs"]
mod vendor;

fn main() {
    match vendor::locate() {
        Ok(path) => eprintln!("llamapen: the llama.cpp source is in {}", path.display()),
        Err(problem) => {
            eprintln!("llamapen: {problem}");
            std::process::exit(1);
        }
    }
}
