//! Order, held by a test: which layer may know which, what the pure layers must not touch, where unsafe
//! code may stand, how long files and functions may be. The data is at the top; each rule is shown to
//! fail on a planted fault at the bottom, so that a green run means something.
//!
//! The lists of exceptions are ratchets: an entry that is no longer needed fails the test as well.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use rules::Edges;
use source::Source;

/// What each layer may know; lowest first, so an entry names only layers that stand above it.
const EDGES: Edges = &[
    ("base", &[]),
    ("limits", &["base"]),
    ("stats", &["base", "limits"]),
    ("wire", &["base", "limits"]),
    ("session", &["base", "limits", "stats", "wire"]),
    ("export", &["base", "limits", "stats", "wire"]),
    ("path", &["base", "limits", "stats", "wire"]),
    ("volume", &["base", "limits", "stats", "wire", "session", "export", "path"]),
    ("api", &[]),
    ("ring", &["base", "limits"]),
    (
        "lane",
        &["base", "limits", "stats", "wire", "session", "export", "path", "volume", "api", "ring"],
    ),
    (
        "control",
        &["base", "limits", "stats", "wire", "session", "export", "path", "volume", "api", "lane"],
    ),
    // `export` and `wire` for the client's side of NBD, which the demo's load and the benchmark drive.
    ("cli", &["base", "limits", "stats", "wire", "export", "path", "volume", "api", "control"]),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Layers that take events and a time, and return actions.
const PURE: &[&str] = &[
    "src/base/",
    "src/limits.rs",
    "src/stats/",
    "src/wire/",
    "src/session/",
    "src/export/",
    "src/path/",
    "src/volume/",
    "src/api/",
];

/// What a pure layer must not name, with what to do instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "a clock: take `now` as an argument"),
    ("std::time::Instant", "a clock: base::Instant is plain data"),
    ("SystemTime", "a clock: take a stamp as an argument"),
    ("time::SystemTime", "a clock: take a stamp as an argument"),
    ("std::time::*", "may bring a clock: name what is meant"),
    ("net::TcpStream", "a socket: return an action, the lane does it"),
    ("net::TcpListener", "a socket: return an action, the lane does it"),
    ("net::UdpSocket", "a socket: return an action, the lane does it"),
    ("net::ToSocketAddrs", "resolves names: control does that"),
    ("std::os", "descriptors belong to ring and lane"),
    ("std::fs", "a file: control reads it and hands the content over"),
    ("std::thread", "a thread: a lane is one"),
    ("std::process", "a process: control's business"),
    ("std::env", "the environment: cli reads it"),
    ("tokio", "a runtime: control's business"),
    ("tokio_uring", "a runtime: control's business"),
    ("io_uring", "the kernel: ring's business"),
    ("nix", "the kernel: ring's and control's business"),
    ("libc", "the kernel: ring's business"),
    ("socket2", "the kernel: ring's business"),
    ("getrandom", "chance: take entropy as an argument"),
];

/// Order inside a layer, and what only one place may know.
const BANNED: &[(&str, &str, &str)] = &[
    ("src/path/", "wire::iscsi", "the path engine knows no PDU"),
    ("src/path/", "wire::nbd", "the path engine knows no PDU"),
    ("src/export/", "wire::iscsi", "an export knows NBD only"),
    ("src/export/", "wire::scsi", "an export knows NBD only"),
    ("src/session/", "wire::nbd", "a session knows iSCSI only"),
    ("src/wire/iscsi/", "wire::nbd", "protocols do not know each other"),
    ("src/wire/scsi/", "wire::iscsi", "protocols do not know each other"),
    ("src/wire/scsi/", "wire::nbd", "protocols do not know each other"),
    ("src/wire/nbd/", "wire::iscsi", "protocols do not know each other"),
    ("src/wire/nbd/", "wire::scsi", "protocols do not know each other"),
];

/// Files in src that may name the embedded target: the demo.
const KNOWS_TARGET: &[&str] = &["demo"];

/// wire is compiled into the target as well, which has these.
const WIRE_CRATES: &[&str] = &["bytes", "smallvec", "thiserror", "crc_fast", "crc32c", "proptest"];

/// What tools may take from src by `#[path]`: an independent state machine shares no more than this.
const SHARED_WITH_TOOLS: &[&str] = &["wire/", "base/", "limits.rs"];

/// Where unsafe code may stand, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("src/ring/", "io_uring takes pointers"),
    ("tests/daemon/io_uring.rs", "a seccomp filter between fork and exec"),
    ("tests/ring_alloc.rs", "a global allocator that counts"),
];

const FILE_LINES_MAX: usize = 1000;
const LONG_FILES: &[(&str, usize)] = &[];

const FUNCTION_LINES_MAX: usize = 70;
/// `file::function` and its length: shorten it, and the number here.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

const MAIN_LINES_MAX: usize = 40;

/// Written apart, so that this file passes.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

fn root() -> PathBuf {
    // At run time: the tests may be run for another checkout than the one they were built in.
    std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo").into()
}

/// Files below the root with one of the endings, as (path relative to the root, text).
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let (root, mut out) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || name == "target" && path.join("CACHEDIR.TAG").exists() {
                continue;
            }
            if path.is_dir() && (!name.starts_with('.') || name == ".ci") {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).expect("a readable text file");
                let inside = path.strip_prefix(&root).expect("below the root");
                out.push((inside.to_string_lossy().into_owned(), text));
            }
        }
    }
    out.sort();
    out
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> =
        files(&[".rs"]).iter().map(|(path, text)| Source::new(path, text)).collect();
    for expected in ["src/lib.rs", "src/ring/mod.rs", "src/base/time.rs", "tests/tidy.rs"] {
        assert!(sources.iter().any(|file| file.path == expected), "{expected} was not read");
    }
    sources
}

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The rules that look at the pure layers.
fn impure(file: &Source) -> Vec<String> {
    let mut bans = Vec::new();
    for folder in PURE {
        bans.extend(IMPURE.iter().map(|(pattern, reason)| (*folder, *pattern, *reason)));
    }
    rules::banned(file, &bans)
}

fn knows_target(file: &Source) -> Vec<String> {
    if KNOWS_TARGET.iter().any(|known| file.path.contains(known)) {
        return Vec::new();
    }
    rules::banned(file, &[("src/", "mpio_target", "only the demo knows the embedded target")])
}

/// Names of all dependencies, as code writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if let (true, Some((name, _))) = (inside, line.split_once('=')) {
            let name = name.trim().trim_end_matches(".workspace");
            out.push(name.replace('-', "_"));
        }
    }
    out.retain(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    out
}

/// Files that are test code as a whole, so that unwrap is allowed.
fn is_test_file(file: &Source, all: &[Source]) -> bool {
    let folder = file.path.starts_with("tests/") || file.path.contains("/tests/");
    let mut declared = all.iter().flat_map(|source| &source.test_modules);
    folder
        || file.path.starts_with("benches/")
        || declared.any(|module| {
            file.path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with(['.', '/']))
        })
}

#[test]
fn imports_point_down() {
    let sources = sources();
    none(sources.iter().flat_map(|file| rules::layers(file, EDGES)).collect());
    none(sources.iter().flat_map(|file| rules::banned(file, BANNED)).collect());
    none(sources.iter().flat_map(knows_target).collect());
    none(sources.iter().flat_map(|file| rules::borrowed(file, SHARED_WITH_TOOLS)).collect());
}

/// The table itself has an order: no two layers know each other, over whatever detour.
#[test]
fn the_table_has_no_cycle() {
    none(upward(EDGES));
}

fn upward(edges: Edges) -> Vec<String> {
    let place = |name: &str| edges.iter().position(|(layer, _)| *layer == name);
    let mut out = Vec::new();
    for (layer, below) in edges {
        for target in below.iter().filter(|target| place(target) >= place(layer)) {
            // The binary's root stands last, and only names what is before it.
            out.push(format!("`{layer}` stands before `{target}` and may not know it"));
        }
    }
    out
}

#[test]
fn pure_layers_do_nothing_themselves() {
    none(sources().iter().flat_map(impure).collect());
}

#[test]
fn wire_uses_what_the_target_has() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let all = dependencies(&manifest);
    assert!(all.len() > 20, "{all:?}");
    let crates = |file: &Source| rules::crates(file, "src/wire/", WIRE_CRATES, &all);
    none(sources().iter().flat_map(crates).collect());
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    none(rules::no_unsafe(&sources(), UNSAFE));
}

#[test]
fn files_and_functions_are_short() {
    let sources = sources();
    none(rules::file_length(&sources, FILE_LINES_MAX, LONG_FILES));
    none(rules::function_length(&sources, FUNCTION_LINES_MAX, LONG_FUNCTIONS));
    let main: Vec<Source> = sources.into_iter().filter(|file| file.path == "src/main.rs").collect();
    assert_eq!(main.len(), 1);
    none(rules::file_length(&main, MAIN_LINES_MAX, &[]));
}

#[test]
fn every_file_says_what_it_is() {
    none(sources().iter().flat_map(rules::opening).collect());
}

#[test]
fn nothing_unwraps_outside_tests() {
    let sources = sources();
    let product = sources.iter().filter(|file| !is_test_file(file, &sources));
    none(product.flat_map(rules::no_unwrap).collect());
}

#[test]
fn nothing_is_left_over() {
    let all = files(&[".rs", ".md", ".toml", ".sh", ".nft", ".yml"]);
    none(all.iter().flat_map(|(path, text)| rules::leftovers(path, text, NOTES)).collect());
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = root();
    let exists = |path: &Path| root.join(path).exists();
    let documents = files(&[".md"]);
    none(documents.iter().flat_map(|(path, text)| rules::dead_links(path, text, exists)).collect());
}

/// Each rule fails on a fault that is planted here, and passes beside it.
mod planted {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source::new(path, text)
    }

    #[track_caller]
    fn faults(findings: &[String], expected: &[&str]) {
        let fits = |(found, part): (&String, &&str)| found.contains(part);
        let same = findings.len() == expected.len();
        assert!(same && findings.iter().zip(expected).all(fits), "{findings:#?}");
    }

    #[test]
    fn layers() {
        let check = |path, text| rules::layers(&file(path, text), EDGES);
        faults(&check("src/wire/x.rs", "use crate::session::Session;"), &["x.rs:1: `wire`"]);
        faults(&check("src/wire/iscsi/x.rs", "use super::super::super::path;"), &["crate::path"]);
        faults(&check("src/path/mod.rs", "fn f() {\n crate::export::g();\n}"), &["mod.rs:2:"]);
        faults(&check("src/stats/mod.rs", "use super::ring::Ring;"), &["crate::ring::Ring"]);
        faults(
            &check("src/session/mod.rs", "mod tests { use super::super::{base, lane::A}; }"),
            &["crate::lane::A"],
        );
        faults(
            &check("src/export/a/b.rs", "use crate::{base::Payload, volume as v};"),
            &["volume"],
        );
        faults(
            &check("src/ring/mod.rs", "x!(crate::wire::A, \"crate::path\"); // crate::path::B"),
            &["wire"],
        );
        faults(&check("src/cli/mod.rs", "use crate::ring::Ring; use crate::control;"), &["ring"]);
        faults(&check("src/main.rs", "fn main() { mpio::control::run() }"), &["`main`"]);
        faults(&check("src/newcomer/mod.rs", ""), &["not in the edge table"]);
        faults(&check("src/volume/a.rs", "use crate::session::Session; use super::spec;"), &[]);
        faults(&check("src/wire/iscsi/x.rs", "use super::super::scsi; use self::a::path::B;"), &[]);
        faults(&check("tools/target/src/lib.rs", "use crate::session;"), &[]);
        faults(&upward(&[("a", &["b"]), ("b", &["a"])]), &["`a` stands before `b`"]);
    }

    #[test]
    fn order_inside_layers() {
        let check = |path, text| rules::banned(&file(path, text), BANNED);
        faults(&check("src/path/x.rs", "use crate::wire::iscsi::Bhs;"), &["knows no PDU"]);
        faults(
            &check("src/wire/nbd/x.rs", "use super::super::wire; fn f(a: crate::wire::scsi::A) {}"),
            &["each other"],
        );
        faults(&check("src/path/x.rs", "use crate::wire::scsi::Sense;"), &[]);
        let target = |path| knows_target(&file(path, "use mpio_target::Pair;"));
        faults(&target("src/cli/serve.rs"), &["only the demo"]);
        faults(&target("src/cli/demo.rs"), &[]);
        let check =
            |text| rules::borrowed(&file("tools/target/src/lib.rs", text), SHARED_WITH_TOOLS);
        faults(&check("#[path = \"../../../src/session/mod.rs\"]"), &["shares src/session"]);
        faults(&check("#[path = \"../../../src/wire/mod.rs\"]\nmod wire;"), &[]);
    }

    #[test]
    fn pure_layers() {
        let check = |text| impure(&file("src/session/x.rs", text));
        faults(&check("fn f() { let t = std::time::Instant::now(); }"), &["clock", "clock"]);
        faults(&check("use std::time::{Duration, Instant};"), &["time::Instant"]);
        faults(&check("use std::time; fn f() { time::SystemTime::now(); }"), &["SystemTime"]);
        faults(&check("use std::{fs, thread};"), &["std::fs", "std::thread"]);
        faults(&check("use std::net::{IpAddr, TcpStream};"), &["TcpStream"]);
        faults(&check("async fn f() { tokio::time::sleep(d).await }"), &["tokio"]);
        faults(
            &check("use nix::unistd; fn f() { getrandom::fill(b); libc::write(1) }"),
            &["nix", "libc", "getrandom"],
        );
        faults(
            &check("use std::time::Duration; use std::net::SocketAddr; use crate::base::Instant;"),
            &[],
        );
        faults(
            &check("/* std::fs::read */ // Instant::now()\nconst A: &str = r#\"std::thread\"#;"),
            &[],
        );
        faults(&impure(&file("src/lane/mod.rs", "use std::thread;")), &[]);
        for folder in PURE {
            let path =
                if folder.ends_with('/') { format!("{folder}x.rs") } else { (*folder).into() };
            faults(&impure(&file(&path, "use std::fs::File;")), &["std::fs"]);
        }
    }

    #[test]
    fn crates_of_wire() {
        let all = dependencies(
            "[dependencies]\nserde.workspace = true\nbytes = \"1\"\nmd-5 = { version = \"1\" }\n[lints]\nfoo = 1",
        );
        assert_eq!(all, ["serde", "bytes", "md_5"]);
        let check =
            |text| rules::crates(&file("src/wire/x.rs", text), "src/wire/", WIRE_CRATES, &all);
        faults(&check("use serde::Serialize; use bytes::Bytes;"), &["`serde`"]);
        faults(&check("fn f() { md_5::x() }"), &["`md_5`"]);
        faults(&check("use crate::base::Payload; use local::Thing;"), &[]);
    }

    #[test]
    fn unsafe_code() {
        let ring = || file("src/ring/x.rs", "fn f() { unsafe { g() } }");
        let bad = file("src/lane/x.rs", "// unsafe\nunsafe fn f() {}");
        let list: &[(&str, &str)] = &[("src/ring/", "it must")];
        faults(&rules::no_unsafe(&[ring(), bad], list), &["src/lane/x.rs:2:"]);
        let talk = file("src/lib.rs", "//! the only unsafe\n#[forbid(unsafe_code)]\nmod a;");
        faults(&rules::no_unsafe(&[ring(), talk], list), &[]);
        faults(&rules::no_unsafe(&[file("src/ring/x.rs", "")], list), &["take it off"]);
    }

    #[test]
    fn lengths() {
        let long = |lines: usize| vec![file("src/a.rs", &"x\n".repeat(lines))];
        faults(&rules::file_length(&long(1001), 1000, &[]), &["1001 lines, more than 1000"]);
        faults(&rules::file_length(&long(1000), 1000, &[]), &[]);
        faults(&rules::file_length(&long(1001), 1000, &[("src/a.rs", 1001)]), &[]);
        faults(
            &rules::file_length(&long(1002), 1000, &[("src/a.rs", 1001)]),
            &["the list says 1001"],
        );
        faults(&rules::file_length(&long(10), 1000, &[("src/a.rs", 1001)]), &["take it off"]);
        let body = |lines: usize| {
            let text = format!(
                "impl A {{\n fn g(&self) -> [u8; 2];\n fn f<T: B>(a: {{3}})\n where T: C {{\n{}}}\n}}",
                " { '{' \"}\" }\n".repeat(lines)
            );
            vec![file("src/a.rs", &text.replace("{3}", "[u8; 3]"))]
        };
        faults(&rules::function_length(&body(68), 70, &[]), &["src/a.rs::f: 71 lines"]);
        faults(&rules::function_length(&body(67), 70, &[]), &[]);
        faults(&rules::function_length(&body(67), 70, &[("src/a.rs::f", 71)]), &["take it off"]);
    }

    #[test]
    fn openings_and_leftovers() {
        faults(&rules::opening(&file("src/a.rs", "use std::fmt;\n//! late")), &["src/a.rs:1:"]);
        faults(&rules::opening(&file("src/a.rs", "//! A file.\n")), &[]);
        let check = |text: &str| rules::leftovers("a.md", text, NOTES);
        faults(&check(concat!("fine\n// TO", "DO later")), &["a.md:2:"]);
        faults(&check(concat!("FIX", "ME")), &["a.md:1:"]);
        faults(&check("to do: nothing"), &[]);
    }

    #[test]
    fn unwraps() {
        let check = |text| rules::no_unwrap(&file("src/a.rs", text));
        faults(&check("fn f() {\n a\n  .unwrap();\n}"), &["src/a.rs:3:"]);
        faults(
            &check("#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }\nfn g() { b.unwrap() }"),
            &["a.rs:3:"],
        );
        faults(&check("struct S {\n #[cfg(test)] a: u8,\n}\nfn g() { b.unwrap() }"), &["a.rs:4:"]);
        faults(&check("#[cfg(not(test))]\nfn g() { b.unwrap() }"), &["a.rs:2:"]);
        faults(&check("// a.unwrap()\nfn f() { a.unwrap_or(1).expect(\".unwrap()\") }"), &[]);
        let all = [
            file("src/ring/mod.rs", "#[cfg(test)]\nmod tests;\nmod pool;"),
            file("src/path/a.rs", "#[cfg(all(test, unix))]\nmod more;"),
        ];
        let test_file = |path| is_test_file(&file(path, ""), &all);
        assert!(test_file("src/ring/tests.rs") && test_file("src/path/a/more/deep.rs"));
        assert!(test_file("tests/x.rs") && test_file("tools/vm/tests/x.rs"));
        assert!(!test_file("src/ring/pool.rs") && !test_file("src/ring/tests_of.rs"));
    }

    #[test]
    fn links() {
        let exists = |path: &Path| path == Path::new("docs/../README.md");
        let check = |text: &str| rules::dead_links("docs/a.md", text, exists);
        faults(&check("see [x](../README.md) and\n[y](gone.md#part)"), &["docs/a.md:2:"]);
        faults(
            &check("[x](../README.md#top) [y](https://a/b) [z](#here)\n```\n[n](gone)\n```"),
            &[],
        );
        faults(
            &check("```\n[n](gone)\n```\n![p](gone.png \"title\")"),
            &["a.md:4: dead link to `gone.png`"],
        );
    }
}
