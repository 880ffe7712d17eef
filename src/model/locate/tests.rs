use super::*;
use crate::Status;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A folder without links in its path, and what tests make in it.
struct Scratch {
    _dir: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().canonicalize().unwrap(), _dir: dir }
    }

    fn at(&self, inner: &str) -> PathBuf {
        self.path.join(inner)
    }

    fn file(&self, inner: &str) -> PathBuf {
        let path = self.at(inner);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, inner).unwrap();
        path
    }

    fn files(&self, inner: &[&str]) -> Vec<PathBuf> {
        inner.iter().map(|inner| self.file(inner)).collect()
    }

    fn link(&self, inner: &str, to: &str) -> PathBuf {
        let path = self.at(inner);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, &path).unwrap();
        path
    }

    /// A file of the hub cache, as the tools of the hub leave it.
    fn cached(&self, name: &str) -> PathBuf {
        let blob = format!("{:064x}", name.bytes().fold(7u128, |sum, b| sum.wrapping_mul(131).wrapping_add(b.into())));
        let up = "../".repeat(2 + name.matches('/').count());
        self.link(&format!("models--o--r/snapshots/{COMMIT}/{name}"), &format!("{up}blobs/{blob}"));
        self.file(&format!("models--o--r/blobs/{blob}"))
    }

    fn set_ref(&self, name: &str, commit: &str) {
        let path = self.file(&format!("models--o--r/refs/{name}"));
        fs::write(path, commit).unwrap();
    }

    fn hub(&self, reference: &str) -> Result<ModelFiles> {
        locate(&reference.parse().unwrap(), &HubCache::at(&self.path))
    }

    fn hub_refused(&self, reference: &str) -> String {
        let error = self.hub(reference).expect_err(reference);
        assert_eq!(error.status(), Status::ModelNotFound, "{error}");
        assert!(error.to_string().starts_with(&format!("model {reference}: ")), "{error}");
        error.to_string()
    }
}

fn found(path: impl Into<PathBuf>) -> ModelFiles {
    locate(&ModelReference::Path(path.into()), &HubCache::at("/nowhere")).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(path: impl Into<PathBuf>) -> String {
    let path = path.into();
    let error = locate(&ModelReference::Path(path.clone()), &HubCache::at("/nowhere")).expect_err("must be refused");
    assert_eq!(error.status(), Status::ModelNotFound, "{error}");
    assert!(error.to_string().starts_with(&format!("model {}: ", path.display())), "{error}");
    error.to_string()
}

#[test]
fn a_file_is_itself() {
    let dir = Scratch::new();
    for (name, id) in
        [("m.Q4.gguf", "m.Q4"), ("no extension", "no extension"), (".gguf", ".gguf"), ("m-00001-of-00001.gguf", "m")]
    {
        let file = dir.file(name);
        assert_eq!(found(&file), ModelFiles { id: id.into(), parts: vec![file] });
    }
    // By another path it is the same model, with the same name.
    let file = dir.at("m.Q4.gguf");
    dir.file("folder/other");
    assert_eq!(found(dir.link("link.gguf", "m.Q4.gguf")), found(&file));
    assert_eq!(found(dir.at("folder/../m.Q4.gguf")), found(&file));
    // Only where the file's own name says nothing, what it was called counts.
    assert_eq!(found(dir.link("named.gguf", "no extension")).id, "named");
}

#[test]
fn any_part_stands_for_all() {
    let dir = Scratch::new();
    let parts = dir.files(&["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]);
    dir.files(&["m-00001-of-00002.gguf", "other-00002-of-00003.gguf"]);
    let all = ModelFiles { id: "m".into(), parts: parts.clone() };
    for part in &parts {
        assert_eq!(found(part), all);
    }
    assert_eq!(found(dir.link("folder/first.gguf", "../m-00001-of-00003.gguf")), all);

    fs::remove_file(&parts[0]).unwrap();
    fs::remove_file(&parts[2]).unwrap();
    for part in &parts {
        let message = refused(part);
        assert!(
            message.contains("of its 3 parts, these are not beside it: m-00001-of-00003.gguf, m-00003-of-00003.gguf"),
            "{message}"
        );
    }
    fs::remove_file(&parts[1]).unwrap();
    assert!(refused(&parts[1]).ends_with("No such file or directory (os error 2)"));
    fs::create_dir(&parts[1]).unwrap();
    assert!(refused(&parts[0]).contains("m-00002-of-00003.gguf: is a directory"));

    dir.file("many-00001-of-65535.gguf");
    let message = refused(dir.at("many-00001-of-65535.gguf"));
    assert!(message.ends_with("many-00009-of-65535.gguf and 65526 more"), "{message}");
}

#[test]
fn linked_parts_keep_the_names_that_llama_cpp_needs() {
    let dir = Scratch::new();
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    // To blobs, as in a hub cache, and the folder by a link.
    for (name, blob) in names.iter().zip(["b0", "b1"]) {
        dir.file(&format!("blobs/{blob}"));
        dir.link(&format!("snapshot/{name}"), &format!("../blobs/{blob}"));
    }
    dir.link("by", "snapshot");
    let kept = ModelFiles { id: "m".into(), parts: names.iter().map(|name| dir.at("snapshot").join(name)).collect() };
    assert_eq!(found(dir.at("by").join(names[1])), kept);
    assert_eq!(found(dir.at("by")), kept);

    // To a set with a name of its own: that one.
    let own = dir.files(&["own/n-00001-of-00002.gguf", "own/n-00002-of-00002.gguf"]);
    dir.link(&format!("to own/{}", names[0]), "../own/n-00001-of-00002.gguf");
    dir.link(&format!("to own/{}", names[1]), "../own/n-00002-of-00002.gguf");
    assert_eq!(found(dir.at("to own").join(names[0])), ModelFiles { id: "n".into(), parts: own });

    // To parts of different sets: the links are what makes them a set.
    dir.files(&["own/o-00002-of-00002.gguf"]);
    dir.link(&format!("mixed/{}", names[0]), "../own/n-00001-of-00002.gguf");
    let second = dir.link(&format!("mixed/{}", names[1]), "../own/o-00002-of-00002.gguf");
    assert_eq!(found(&second).parts, names.map(|name| dir.at("mixed").join(name)));
}

#[test]
fn a_folder_stands_for_the_one_model_in_it() {
    let dir = Scratch::new();
    dir.files(&[
        "one/mmproj-m.gguf",
        "one/m.mmproj.gguf",
        "one/imatrix.gguf",
        "one/._m.gguf",
        "one/README.md",
        "one/below/n.gguf",
    ]);
    fs::create_dir_all(dir.at("one/folder.gguf")).unwrap();
    let message = refused(dir.at("one"));
    assert!(message.contains("is a directory without a model in it; name a GGUF file"), "{message}");
    let file = dir.file("one/m.gguf");
    assert_eq!(found(dir.at("one")), ModelFiles { id: "m".into(), parts: vec![file] });

    let parts = dir.files(&["split/m-00001-of-00002.gguf", "split/m-00002-of-00002.gguf"]);
    assert_eq!(found(dir.at("split")).parts, parts);
    dir.file("split/m.gguf");
    let message = refused(dir.at("split"));
    assert!(
        message.ends_with("is a directory with several models; name one of them: m-00001-of-00002.gguf, m.gguf"),
        "{message}"
    );

    dir.file("half/m-00002-of-00002.gguf");
    let message = refused(dir.at("half"));
    assert!(message.contains("m-00001-of-00002.gguf: of its 2 parts, these are not beside it: m-00001"), "{message}");

    for n in 0..20 {
        dir.file(&format!("many/{n:02}.gguf"));
    }
    let message = refused(dir.at("many"));
    assert!(
        message.ends_with(": 00.gguf, 01.gguf, 02.gguf, 03.gguf, 04.gguf, 05.gguf, 06.gguf, 07.gguf and 12 more"),
        "{message}"
    );
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = Scratch::new();
    let pipe = dir.at("pipe.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(refused(&pipe).ends_with("is not a regular file"));
    assert!(refused(&dir.path).ends_with("pipe.gguf: is not a regular file"));
    let pipe = dir.at("p-00002-of-00002.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    dir.file("p-00001-of-00002.gguf");
    assert!(refused(dir.at("p-00001-of-00002.gguf")).ends_with("p-00002-of-00002.gguf: is not a regular file"));
    assert!(refused("/dev/null").ends_with("is not a regular file"));

    let dangling = dir.link("d/dangling.gguf", "nowhere");
    assert!(refused(&dangling).contains("No such file"));
    assert!(refused(dir.at("d")).contains("dangling.gguf: No such file"));
    let circle = dir.link("circle.gguf", "circle.gguf");
    assert!(refused(&circle).contains("symbolic links"), "{}", refused(&circle));
    let file = dir.file("file");
    assert!(refused(file.join("x.gguf")).contains("Not a directory"));
    assert!(refused(dir.at(&"x".repeat(300))).contains("name too long"));
    assert!(refused(dir.at(&"x/".repeat(3000))).ends_with(')'), "the words of the system");
    assert!(refused("a\0b.gguf").contains("NUL"));

    let message = refused("/no/such/qwen:7b");
    assert!(!message.contains("scheme"), "{message}");
    let message = refused("qwen:7b");
    assert!(
        message.contains("No such file") && message.contains("If qwen: was meant as a scheme: known are file:, hf:"),
        "{message}"
    );
    let error = locate(&ModelReference::Path("".into()), &HubCache::from_env()).unwrap_err();
    assert_eq!(error.to_string(), "model: the path is empty; name a GGUF file");
}

#[test]
fn a_path_that_is_not_utf8_is_refused_but_may_be_linked_to() {
    let dir = Scratch::new();
    for name in [&b"\xff.gguf"[..], b"\xff-00001-of-00001.gguf"] {
        let path = dir.path.join(OsStr::from_bytes(name));
        fs::write(&path, "").unwrap();
        assert!(refused(&path).contains("the path is not UTF-8; rename it"));
    }
    let folder = dir.path.join(OsStr::from_bytes(b"\xff"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("m-00001-of-00001.gguf"), "").unwrap();
    assert!(refused(folder.join("m-00001-of-00001.gguf")).contains("the path is not UTF-8"));
    assert!(refused(&folder).contains("the path is not UTF-8"));
}

#[test]
fn without_permission_it_says_so() {
    let dir = Scratch::new();
    let file = dir.file("m.gguf");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&file).is_ok() {
        return eprintln!("not tested: this user may read everything");
    }
    assert!(refused(&file).contains("Permission denied"));
}

#[test]
fn remote_references_are_unsupported() {
    let error = locate(&"https://host/m.gguf".parse().unwrap(), &HubCache::from_env()).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
}

#[test]
fn a_hub_file_is_found_by_branch_tag_and_commit() {
    let cache = Scratch::new();
    let blob = cache.cached("m.Q4.gguf");
    cache.set_ref("main", COMMIT);
    cache.set_ref("refs/pr/1", &format!("{COMMIT}\n"));
    let expected = ModelFiles { id: "o/r/m.Q4".into(), parts: vec![blob] };
    for reference in [
        "hf:o/r/m.Q4.gguf".to_owned(),
        "hf:o/r".into(),
        "hf:o/r@main/m.Q4.gguf".into(),
        "hf:o/r@refs/pr/1/m.Q4.gguf".into(),
        format!("hf:o/r@{COMMIT}/m.Q4.gguf"),
        format!("hf:o/r@{}", COMMIT.to_uppercase()),
    ] {
        assert_eq!(cache.hub(&reference).unwrap(), expected, "{reference}");
    }
}

#[test]
fn a_hub_file_may_be_split_and_in_a_folder() {
    let cache = Scratch::new();
    cache.set_ref("main", COMMIT);
    cache.cached("Q4/m-00001-of-00002.gguf");
    let expected = || {
        let snapshot = cache.at(&format!("models--o--r/snapshots/{COMMIT}/Q4"));
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|name| snapshot.join(name));
        ModelFiles { id: "o/r/Q4/m".into(), parts: parts.into() }
    };
    let message = cache.hub_refused("hf:o/r/Q4/m-00001-of-00002.gguf");
    assert!(message.contains("of its 2 parts, these are not beside it: m-00002-of-00002.gguf"), "{message}");
    assert!(message.ends_with("fetch it with `hf download o/r --include 'Q4/m-*-of-00002.gguf'`"), "{message}");
    cache.cached("Q4/m-00002-of-00002.gguf");
    cache.cached("mmproj-m.gguf");
    for reference in ["hf:o/r", "hf:o/r/Q4", "hf:o/r/Q4/m-00001-of-00002.gguf", "hf:o/r/Q4/m-00002-of-00002.gguf"] {
        assert_eq!(cache.hub(reference).unwrap(), expected(), "{reference}");
    }
    cache.cached("Q8/m.gguf");
    let message = cache.hub_refused("hf:o/r");
    assert!(message.ends_with("name one of them: Q4/m-00001-of-00002.gguf, Q8/m.gguf"), "{message}");
}

#[test]
fn what_is_not_in_the_cache_comes_with_the_place_and_the_command() {
    let cache = Scratch::new();
    let check = |reference: &str, looked: &str, command: &str| {
        let message = cache.hub_refused(reference);
        assert!(message.contains(cache.at(looked).to_str().unwrap()), "{message}");
        assert!(message.ends_with(&format!("This library never downloads: fetch it with `{command}`")), "{message}");
    };
    check("hf:o/r/m.gguf", "models--o--r/refs/main)", "hf download o/r m.gguf");
    check("hf:o/r@v1/m.gguf", "models--o--r/refs/v1)", "hf download o/r m.gguf --revision v1");
    cache.set_ref("main", COMMIT);
    check("hf:o/r/m.gguf", &format!("models--o--r/snapshots/{COMMIT}/m.gguf)"), "hf download o/r m.gguf");
    check("hf:o/r", &format!("models--o--r/snapshots/{COMMIT})"), "hf download o/r --include '*.gguf'");
    // The blob was removed, the link is left.
    fs::remove_file(cache.cached("m.gguf")).unwrap();
    check("hf:o/r/m.gguf", &format!("models--o--r/snapshots/{COMMIT}/m.gguf: No such file"), "hf download o/r m.gguf");

    for broken in ["", "main", "../../../../etc", &COMMIT[1..], &format!("{COMMIT}0")] {
        cache.set_ref("main", broken);
        let message = cache.hub_refused("hf:o/r/m.gguf");
        assert!(message.contains("does not hold a commit of 40 hexadecimal digits"), "{broken}: {message}");
    }
    let error = locate(&"hf:o/r".parse().unwrap(), &HubCache::at("/no/such/cache")).unwrap_err();
    assert!(error.to_string().contains("/no/such/cache/models--o--r/refs/main"), "{error}");
}
