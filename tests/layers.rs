//! Holds the source to its layout: a folder is a layer, imports point one way, and what is
//! dangerous or hard to test (unsafe code, the environment, the clock) has one place.
//!
//! ```text
//! api, config  <-  machine  <-  sys  <-  { master, worker }  <-  service  <-  program  <-  lib  <-  main
//!                                  ^---  keeper  <--------------'    |          |
//!                                  ^---  cli  <----------------------'    site -'
//! ```
//!
//! [`LAYERS`] says it exactly, and why. The files are read as tokens, so neither comments nor
//! strings count, and neither the spelling of an import nor a path without one hides anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// Every layer, what it may use, and why no more. A folder or file of `src/` that is not named here
/// fails the test: a new layer is a decision.
const LAYERS: &[(&str, &[&str], &str)] = &[
    (
        "api",
        &[],
        "what the control socket says, as plain data: both its ends and the history use it",
    ),
    ("config", &[], "the configuration file as plain data"),
    (
        "context",
        &["config", "machine"],
        "what an application knows of its worker: both the worker and the front give it out, and it \
         calls neither",
    ),
    (
        "machine",
        &["api", "config"],
        "pure: messages carry configurations and statuses, nothing else is known",
    ),
    (
        "sys",
        &["config", "machine"],
        "the operating system; it binds what a ListenerConfig says and names sources as messages do",
    ),
    (
        "master",
        &["api", "config", "machine", "sys"],
        "never the worker's code: a master only talks to workers, in machine::link's words",
    ),
    (
        "worker",
        &["config", "content", "context", "machine", "sys"],
        "never the master's code, for the same reason; and it answers no operator, so no api",
    ),
    (
        "keeper",
        &["sys"],
        "it must outlive every upgrade: the less it knows, the less of it can be wrong",
    ),
    (
        "cli",
        &["api", "config", "machine", "sys"],
        "a client of the control socket, of another version perhaps: it sees a master only through \
         api (of machine it uses the protocol's number, for -V)",
    ),
    (
        "content",
        &[],
        "what an answer sends of a file: the site makes it, a worker may have the kernel send it",
    ),
    (
        "site",
        &["content"],
        "an ordinary axum application, as a library's user would bring; it knows nothing of upgrades",
    ),
    (
        "host",
        &["config", "worker"],
        "the front of a hosted application: an axum application as any other, that asks another one; \
         of worker it takes what every application may know of a connection",
    ),
    (
        "supervisor",
        &["config", "machine", "sys"],
        "a process of its own that outlives masters: it knows them only by machine::hosting's words",
    ),
    (
        "service",
        &[
            "api",
            "config",
            "context",
            "machine",
            "sys",
            "master",
            "worker",
            "keeper",
            "supervisor",
            "cli",
        ],
        "it decides which role this process plays, so it knows every role; but no application",
    ),
    (
        "testing",
        &["config", "context", "machine", "service", "sys", "worker"],
        "a service in one process: it plays the masters' part before real workers",
    ),
    (
        "program",
        &["config", "context", "host", "service", "site"],
        "the library's first user, so it is made from what every user has, and from its applications",
    ),
    (
        "lib",
        &["context", "program", "service", "worker"],
        "the front: it exports",
    ),
    (
        "main",
        &[],
        "it may use what the library shows to everybody (`the_daemon_uses_only_the_front`)",
    ),
];

/// Tests may look across, where two real sides are better than one that is played.
const TESTS_MAY: &[(&str, &str, &str)] = &[(
    "cli",
    "master",
    "the client is tested against the real control socket",
)];

#[test]
fn imports_point_one_way() {
    let mut bad = Vec::new();
    for file in &*SOURCES {
        let Some((_, allowed, why)) = LAYERS.iter().find(|(name, ..)| *name == file.layer()) else {
            bad.push(format!(
                "src/{}: no such layer; say in {} what it may use",
                file.path.display(),
                file!()
            ));
            continue;
        };
        for used in file.uses() {
            let own = used.layer == file.layer();
            let looks_across = TESTS_MAY
                .iter()
                .any(|(from, to, _)| used.test && (*from, *to) == (file.layer(), &used.layer));
            if !own && !looks_across && !allowed.contains(&&*used.layer) {
                bad.push(format!(
                    "src/{}:{}: {} must not use {} ({why})",
                    file.path.display(),
                    used.line,
                    file.layer(),
                    used.layer
                ));
            }
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

/// The table above is what is, not what was: an edge that nobody uses any more is crossed out.
#[test]
fn every_edge_that_is_allowed_is_used() {
    let mut used = BTreeSet::new();
    for file in &*SOURCES {
        for one in file.uses() {
            used.insert((file.layer().to_owned(), one.layer));
        }
    }
    let unused: Vec<_> = LAYERS
        .iter()
        .flat_map(|(from, to, _)| to.iter().map(move |to| (*from, *to)))
        .chain(TESTS_MAY.iter().map(|(from, to, _)| (*from, *to)))
        .filter(|(from, to)| !used.contains(&((*from).to_owned(), (*to).to_owned())))
        .collect();
    assert!(unused.is_empty(), "nobody uses these: {unused:?}");
}

/// Two folders that use each other are one: the table itself must be free of circles.
#[test]
fn the_layers_have_an_order() {
    let mut left: BTreeMap<_, BTreeSet<_>> = LAYERS
        .iter()
        .map(|(name, uses, _)| (*name, uses.iter().copied().collect()))
        .collect();
    while !left.is_empty() {
        let bottom: Vec<_> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|used| !left.contains_key(used)))
            .map(|(name, _)| *name)
            .collect();
        assert!(!bottom.is_empty(), "a circle among {:?}", left.keys());
        for name in bottom {
            left.remove(name);
        }
    }
}

#[test]
fn the_daemon_uses_only_the_front() {
    let layers: BTreeSet<_> = LAYERS.iter().map(|(name, ..)| *name).collect();
    for path in &source("main.rs").paths {
        if let [krate, name, ..] = &path.names[..] {
            assert!(
                krate != "handover" || !layers.contains(&**name),
                "main.rs:{}: {krate}::{name} is not for users of the library",
                path.line
            );
        }
    }
}

#[test]
fn unsafe_code_has_one_file() {
    only_in("unsafe", &["sys/kernel.rs"], |file, bad| {
        for path in &file.paths {
            if path.names == ["unsafe"] {
                bad(path.line, "the keyword unsafe");
            }
        }
    });
}

#[test]
fn the_environment_is_read_in_one_place() {
    let readers = ["sys/inherited.rs", "sys/kernel.rs", "sys/spawn.rs"];
    only_in("the environment", &readers, |file, bad| {
        // A test that starts itself again in a process of its own is told so by a variable.
        for path in file.paths.iter().filter(|path| !path.test) {
            if let Some(name) = called_of("env", path).filter(|name| ENVIRONMENT.contains(name)) {
                bad(path.line, &format!("env::{name}"));
            }
        }
    });
    // What a child does not get is decided where it is made: one file copies, the other takes away, and
    // neither asks.
    for (name, calls) in [("sys/spawn.rs", "vars_os"), ("sys/kernel.rs", "remove_var")] {
        let file = source(name);
        let paths = file.paths.iter().filter(|path| !path.test);
        let asks: Vec<_> = paths.filter_map(|path| called_of("env", path)).collect();
        assert_eq!(asks, [calls], "{name} asks nothing");
    }
}

#[test]
fn nobody_changes_the_environment() {
    // Before there is a second thread, and for the sake of children.
    let before_threads = ["sys/kernel.rs"];
    only_in(
        "changes of the environment",
        &before_threads,
        |file, bad| {
            for path in &file.paths {
                let called = called_of("env", path);
                if let Some("set_var" | "remove_var" | "set_current_dir") = called {
                    bad(path.line, &path.to_string());
                }
            }
        },
    );
}

/// What a process of ours gets (descriptors, environment, signals) is decided in one file; masters,
/// the supervisor of an application, and the keeper use it. The client asks two programs of systemd's.
#[test]
fn processes_are_started_in_few_places() {
    let clients = ["cli/history.rs", "cli/client/running.rs"];
    only_in("std's Command", &clients, |file, bad| {
        for path in file.paths.iter().filter(|path| !path.test) {
            let names: Vec<_> = path.names.iter().map(String::as_str).collect();
            if matches!(&names[..], ["std", "process", .., "Command"]) {
                bad(path.line, &path.to_string());
            }
        }
    });
    // Whoever looks after a process to its end: the keeper after the first master, a launch after the
    // successor, the workers' part after each worker, the applications' after their supervisors, and a
    // supervisor after its instances.
    let starters = [
        "keeper.rs",
        "master/launch.rs",
        "master/hosting/launcher.rs",
        "master/workers/start.rs",
        "supervisor/instance.rs",
        "sys/spawn.rs",
    ];
    only_in("spawn", &starters, |file, bad| {
        for path in file.paths.iter().filter(|path| !path.test) {
            let names: Vec<_> = path.names.iter().map(String::as_str).collect();
            let spawns = matches!(&names[..], [.., "spawn", "spawn"])
                && names.first().is_none_or(|first| *first != "tokio");
            if spawns {
                bad(path.line, &path.to_string());
            }
        }
    });
}

/// Time is an argument, effects are answers: otherwise the explorer explores nothing.
#[test]
fn the_machine_is_pure() {
    only_in("effects", &[], |file, bad| {
        if file.layer() != "machine" {
            return;
        }
        for path in file.paths.iter().filter(|path| !path.test) {
            let names: Vec<_> = path.names.iter().map(String::as_str).collect();
            let clock = matches!(
                &names[..],
                [.., "Instant" | "SystemTime" | "Timestamp", "now"]
            );
            let outside = ["tokio", "nix", "rustix", "libc", "tracing", "fastrand"];
            let world = ["env", "fs", "io", "net", "os", "process", "sync", "thread"];
            let effect = match &names[..] {
                ["std", part, ..] => world.contains(part),
                [krate, ..] => outside.contains(krate),
                [] => false,
            };
            if clock || effect {
                bad(path.line, &path.to_string());
            }
        }
    });
}

/// A master is many parts, each small enough to be read at once.
#[test]
fn no_part_of_a_master_is_long() {
    const MOST: usize = 350;
    let of_master = SOURCES.iter().filter(|file| file.layer() == "master");
    for file in of_master {
        let text = fs::read_to_string(src().join(&file.path)).expect("a source file");
        let product = text.split("#[cfg(test)]\nmod tests {").next();
        let lines = product.unwrap_or_default().lines().count();
        let path = file.path.display();
        let is_test = file
            .path
            .iter()
            .any(|name| name == "tests" || name == "tests.rs");
        assert!(
            is_test || lines <= MOST,
            "src/{path}: {lines} lines, at most {MOST}"
        );
    }
}

/// A source may cite only what is in the tree: ARCHITECTURE.md, the README, the manual, an RFC.
#[test]
fn nothing_outside_the_tree_is_cited() {
    let mut bad = Vec::new();
    for file in &*SOURCES {
        let text = fs::read_to_string(src().join(&file.path)).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            for name in line.split(|c: char| !c.is_alphanumeric() && !"._-/".contains(c)) {
                let document = name.trim_end_matches('.');
                let cited = document.strip_suffix(".md").is_some_and(|n| !n.is_empty());
                let beside = src().join(&file.path).with_file_name(document);
                if cited && !src().join("..").join(document).exists() && !beside.exists() {
                    bad.push(format!(
                        "src/{}:{}: {document}",
                        file.path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

/// Nobody finds the way with a map of another place.
#[test]
fn what_the_map_names_is_there() {
    let root = src().join("..");
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("a map");
    // In its tables a path begins at the layer, or at the part of one that the table is about.
    let begins = ["", "src", "src/master", "src/cli"].map(|from| root.join(from));
    let (mut bad, mut seen) = (Vec::new(), 0);
    for line in map.lines() {
        let quoted = line.split('`').skip(1).step_by(2);
        for path in quoted.filter(|text| text.contains('/') && !text.contains(' ')) {
            seen += 1;
            let file = format!("{path}.rs");
            let is_there = |from: &PathBuf| from.join(path).exists() || from.join(&file).exists();
            if !begins.iter().any(is_there) {
                bad.push(path);
            }
        }
    }
    assert!(
        bad.is_empty() && seen > 40,
        "{seen} seen, not there: {bad:?}"
    );
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut bad = Vec::new();
    for file in &*SOURCES {
        let text = fs::read_to_string(src().join(&file.path)).expect("a source file");
        if !text.starts_with("//! ") {
            bad.push(format!("src/{}", file.path.display()));
        }
    }
    assert!(bad.is_empty(), "without a //! line at the top: {bad:?}");
}

/// The test's own eyes: what it would not see, it could not forbid.
#[test]
fn every_spelling_of_an_import_is_seen() {
    let seen = |module: &[&str], text: &str| {
        let tokens: TokenStream = text.parse().expect("Rust");
        let file = Source {
            path: module.iter().collect(),
            module: module.iter().map(|m| (*m).to_owned()).collect(),
            modules: declared(&tokens),
            paths: paths(&tokens, false),
        };
        let uses = file.uses().into_iter();
        let mut seen: Vec<_> = uses.map(|used| (used.layer, used.test)).collect();
        seen.dedup();
        seen
    };
    let one = |layer: &str| vec![(layer.to_owned(), false)];
    let two = |a: &str, b: &str| vec![(a.to_owned(), false), (b.to_owned(), false)];
    assert_eq!(seen(&["a"], "use crate::sys::image::Image;"), one("sys"));
    assert_eq!(
        seen(&["a"], "use crate::{sys::{x, y}, api};"),
        two("sys", "api")
    );
    assert_eq!(seen(&["a"], "pub use crate::sys as s;"), one("sys"));
    assert_eq!(seen(&["a"], "fn f(x: &crate::sys::X) {}"), one("sys"));
    assert_eq!(seen(&["a"], "fn f() { g!(crate::sys::X) }"), one("sys"));
    assert_eq!(seen(&["a"], "use super::sys;"), one("sys"));
    assert_eq!(seen(&["a"], "use super::{sys, api};"), two("sys", "api"));
    assert_eq!(seen(&["a", "b"], "use super::c;"), one("a"));
    assert_eq!(seen(&["a", "b"], "use super::super::sys;"), one("sys"));
    assert_eq!(seen(&["a"], "mod m { use super::super::sys; }"), one("sys"));
    assert_eq!(seen(&["a"], "mod m { use super::*; }"), one("a"));
    assert_eq!(
        seen(
            &["a"],
            "#[cfg(test)] mod m { use crate::sys; } use crate::api;"
        ),
        [("sys".to_owned(), true), ("api".to_owned(), false)]
    );
    assert_eq!(
        seen(&["a"], "// crate::sys\nconst X: &str = \"crate::sys\";"),
        []
    );
    let root =
        "mod service; pub mod sys; use service::S; fn f() { cx.config.site; tokio::spawn() }";
    assert_eq!(seen(&[], root), one("service"));
}

/// What reads, or changes, what a process was started with.
const ENVIRONMENT: &[&str] = &[
    "args",
    "args_os",
    "current_dir",
    "remove_var",
    "set_current_dir",
    "set_var",
    "var",
    "var_os",
    "vars",
    "vars_os",
];

/// Calls `look` for every file but `allowed`; fails with what it complained of.
fn only_in(what: &str, allowed: &[&str], look: impl Fn(&Source, &mut dyn FnMut(usize, &str))) {
    let mut bad = Vec::new();
    for file in &*SOURCES {
        if allowed
            .iter()
            .any(|allowed| Path::new(allowed) == file.path)
        {
            continue;
        }
        look(file, &mut |line, found| {
            bad.push(format!("src/{}:{line}: {found}", file.path.display()));
        });
    }
    assert!(
        bad.is_empty(),
        "{what} only in {allowed:?}\n{}",
        bad.join("\n")
    );
}

/// One file of `src/`.
struct Source {
    /// Below `src/`.
    path: PathBuf,
    /// Where it hangs: `["master", "store"]`.
    module: Vec<String>,
    /// What it declares (`mod x;`), and whether only for tests.
    modules: Vec<(String, bool)>,
    /// Every path of names in it.
    paths: Vec<Named>,
}

/// A file names something of a layer.
struct Used {
    layer: String,
    line: usize,
    test: bool,
}

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut sources: Vec<_> = files().into_iter().map(Source::read).collect();
    // What a file is for, the file above it says.
    let for_tests: Vec<Vec<String>> = sources
        .iter()
        .flat_map(|file| {
            let modules = file.modules.iter().filter(|(_, test)| *test);
            modules.map(|(name, _)| [&file.module[..], std::slice::from_ref(name)].concat())
        })
        .collect();
    for file in &mut sources {
        if for_tests.iter().any(|m| file.module.starts_with(m)) {
            file.paths.iter_mut().for_each(|path| path.test = true);
        }
    }
    sources
});

fn source(path: &str) -> &'static Source {
    let found = SOURCES.iter().find(|file| file.path == Path::new(path));
    found.unwrap_or_else(|| panic!("no src/{path}"))
}

impl Source {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(src().join(&path)).expect("a source file");
        let tokens: TokenStream = text
            .parse()
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        Self {
            module: module_of(&path),
            modules: declared(&tokens),
            paths: paths(&tokens, false),
            path,
        }
    }

    fn layer(&self) -> &str {
        let root = || self.path.file_stem().and_then(|s| s.to_str());
        let first = self.module.first().map(String::as_str);
        first.or_else(root).unwrap_or_default()
    }

    /// What it names of the crate's layers.
    fn uses(&self) -> Vec<Used> {
        let mut found = Vec::new();
        for path in &self.paths {
            let mut here = self.module.clone();
            here.extend(path.inside.iter().cloned());
            let mut rest = path.names.iter().map(String::as_str).peekable();
            match rest.next().unwrap_or_default() {
                "crate" => here.clear(),
                "super" => {
                    here.pop();
                    while rest.next_if_eq(&"super").is_some() {
                        here.pop();
                    }
                }
                // In the crate's root a path may begin with a module's name.
                first
                    if here.is_empty()
                        && path.names.len() > 1
                        && self.modules.iter().any(|(name, _)| name == first) =>
                {
                    here.push(first.to_owned());
                }
                _ => continue,
            }
            here.extend(rest.map(ToOwned::to_owned));
            if let Some(layer) = here.into_iter().next().filter(|layer| layer != "*") {
                found.push(Used {
                    layer,
                    line: path.line,
                    test: path.test,
                });
            }
        }
        found
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `src/`.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path.strip_prefix(src()).expect("below src").to_owned());
            }
        }
    }
    assert!(found.len() > 50, "only {} files in src/", found.len());
    found.sort();
    found
}

/// `master/store/mod.rs` is `["master", "store"]`, the crate's roots are `[]`.
fn module_of(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    match names.last().map(String::as_str) {
        Some("mod") => drop(names.pop()),
        Some("lib" | "main") if names.len() == 1 => names.clear(),
        _ => {}
    }
    names
}

/// `mod name;`, and whether only for tests.
fn declared(tokens: &TokenStream) -> Vec<(String, bool)> {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    let mut found = Vec::new();
    let mut test = false;
    for (i, token) in tokens.iter().enumerate() {
        match (token, tokens.get(i + 1), tokens.get(i + 2)) {
            (TokenTree::Punct(p), Some(TokenTree::Group(g)), _) if p.as_char() == '#' => {
                test |= is_cfg_test(&g.stream());
            }
            (TokenTree::Ident(k), Some(TokenTree::Ident(name)), Some(TokenTree::Punct(end)))
                if k == "mod" && end.as_char() == ';' =>
            {
                found.push((name.to_string(), test));
            }
            (TokenTree::Punct(p), ..) if p.as_char() == ';' => test = false,
            (TokenTree::Group(g), ..) if g.delimiter() == Delimiter::Brace => test = false,
            _ => {}
        }
    }
    found
}

fn is_cfg_test(attribute: &TokenStream) -> bool {
    attribute.to_string().replace(' ', "") == "cfg(test)"
}

/// A path of names, as far as it can be told: `crate::sys::image`, `std::env::var`.
struct Named {
    names: Vec<String>,
    line: usize,
    /// The inline modules around it.
    inside: Vec<String>,
    /// `#[cfg(test)]` is around it.
    test: bool,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join("::"))
    }
}

/// What is called of a module, however much of the path is written: `std::env::var`, `env::var`.
fn called_of<'a>(module: &str, path: &'a Named) -> Option<&'a str> {
    let at = path.names.iter().position(|name| name == module)?;
    path.names.get(at + 1).map(String::as_str)
}

/// Every path in a file; a group of imports is as many paths.
fn paths(tokens: &TokenStream, test: bool) -> Vec<Named> {
    let mut found = Vec::new();
    walk(tokens, &[], &[], test, &mut found);
    found
}

fn walk(
    tokens: &TokenStream,
    prefix: &[String],
    inside: &[String],
    test: bool,
    found: &mut Vec<Named>,
) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    let colons = |i: usize| {
        let colon = |i: usize, spacing: Option<Spacing>| {
            matches!(tokens.get(i), Some(TokenTree::Punct(p))
                if p.as_char() == ':' && spacing.is_none_or(|s| s == p.spacing()))
        };
        colon(i, Some(Spacing::Joint)) && colon(i + 1, None)
    };
    let (mut for_test, mut module) = (test, None);
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            TokenTree::Ident(first) => {
                if first == "mod" {
                    if let Some(TokenTree::Ident(name)) = tokens.get(i + 1) {
                        module = Some(name.to_string());
                    }
                }
                let line = first.span().start().line;
                let mut names = prefix.to_vec();
                names.push(first.to_string());
                i += 1;
                let mut group = None;
                while colons(i) {
                    match tokens.get(i + 2) {
                        Some(TokenTree::Ident(name)) => names.push(name.to_string()),
                        Some(TokenTree::Punct(p)) if p.as_char() == '*' => names.push("*".into()),
                        Some(TokenTree::Group(g)) => group = Some(g.stream()),
                        _ => break,
                    }
                    i += 3;
                }
                if let Some(group) = group {
                    walk(&group, &names, inside, for_test, found);
                } else {
                    found.push(Named {
                        names,
                        line,
                        inside: inside.to_vec(),
                        test: for_test,
                    });
                }
            }
            TokenTree::Group(group) => {
                let braces = group.delimiter() == Delimiter::Brace;
                let attribute =
                    i > 0 && matches!(&tokens[i - 1], TokenTree::Punct(p) if p.as_char() == '#');
                if attribute && is_cfg_test(&group.stream()) {
                    for_test = true;
                }
                let mut deeper = inside.to_vec();
                deeper.extend(module.take_if(|_| braces));
                walk(&group.stream(), &[], &deeper, for_test, found);
                if braces {
                    for_test = test;
                }
                i += 1;
            }
            TokenTree::Punct(p) => {
                if p.as_char() == ';' {
                    (for_test, module) = (test, None);
                }
                i += 1;
            }
            TokenTree::Literal(_) => i += 1,
        }
    }
}

/// A handler that panics costs its own request: that needs programs that unwind.
#[test]
fn no_profile_of_ours_aborts_at_a_panic() {
    for manifest in [
        "Cargo.toml",
        "examples/greeter/Cargo.toml",
        "fuzz/Cargo.toml",
    ] {
        let text = fs::read_to_string(manifest).expect(manifest);
        let parsed: toml::Table = text.parse().expect(manifest);
        let profiles = parsed.get("profile").and_then(toml::Value::as_table);
        for (name, profile) in profiles.into_iter().flatten() {
            assert_eq!(profile.get("panic"), None, "{manifest}: [profile.{name}]");
        }
    }
    let flags = fs::read_to_string(".cargo/config.toml").unwrap_or_default();
    assert!(!flags.contains("panic"), ".cargo/config.toml: {flags}");
}
