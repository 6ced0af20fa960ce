//! Holds the public API to the types that it may show: std's, its own, and of other crates only what
//! [`SHOWN`] lists. A type of any other crate would make that crate's next major version one of ours.
//!
//! rustdoc knows them all, whatever way they come: signatures, bounds, fields, implementations, what is
//! exported again. It links to a crate whose documentation it sees beside its own, so an empty directory
//! for each crate makes it name each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an author has to do with anyway. Of `axum` and `clap`, which are exported whole, he gets the
/// version that fits.
const SHOWN: &[(&str, &str)] = &[
    ("axum", "exported"),
    ("axum::routing::Router", "an application"),
    (
        "axum_core::extract::FromRequestParts",
        "Context, Peer, Upgrade in a handler",
    ),
    (
        "axum_core::response::Response",
        "what a handler answers with",
    ),
    ("clap", "exported"),
    ("clap_builder::derive::Args", "Service::arguments"),
    ("clap_builder::derive::Subcommand", "Service::commands"),
    ("http::request::Parts", "of FromRequestParts"),
    ("http::status::StatusCode", "of FromRequestParts"),
    ("serde_core::de::Deserialize", "Config is data"),
    (
        "serde_core::de::DeserializeOwned",
        "Service::config, Context::take",
    ),
    ("serde_core::de::Deserializer", "Config is data"),
    (
        "serde_core::ser::Serialize",
        "Config is data, Context::offer",
    ),
    ("serde_core::ser::Serializer", "Config is data"),
    ("tracing_core::subscriber::Subscriber", "Log::layer"),
    (
        "tracing_subscriber::layer::Layer",
        "Log::layer stands in a subscriber of the author's own",
    ),
    ("tracing_subscriber::registry::LookupSpan", "Log::layer"),
];

#[test]
fn the_public_api_shows_no_other_crate_s_types() {
    let crates = dependencies();
    let docs = documentation(&crates);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut pages = 0;
    for page in pages_below(&docs.join("handover")) {
        pages += 1;
        let text = fs::read_to_string(&page).expect("a page");
        for item in foreign(&text, &crates) {
            let page = page.strip_prefix(&docs).expect("below").display();
            found.entry(item).or_default().insert(page.to_string());
        }
    }
    assert!(pages > 50, "only {pages} pages");
    let shown: BTreeSet<&str> = SHOWN.iter().map(|(item, _)| *item).collect();
    let more: Vec<_> = found
        .iter()
        .filter(|(item, _)| !shown.contains(&***item))
        .collect();
    assert!(more.is_empty(), "not to be shown: {more:#?}");
    let gone: Vec<_> = shown
        .iter()
        .filter(|item| !found.contains_key(**item))
        .collect();
    assert!(gone.is_empty(), "shown no longer: {gone:?}");
}

/// What a page names of these crates: `http::method::Method`. What other crates implement for every
/// type there is (`tracing::Instrument`) is theirs.
fn foreign(page: &str, crates: &BTreeSet<String>) -> BTreeSet<String> {
    let ours = page.split("<h2 id=\"blanket-implementations\"").next();
    let links = ours.unwrap_or(page).split("href=\"").skip(1);
    let mut found = BTreeSet::new();
    for link in links {
        let link = link.split(['"', '#']).next().unwrap_or_default();
        let path = link.trim_start_matches("../");
        let Some((path, file)) = path.rsplit_once('/') else {
            continue;
        };
        let krate = path.split('/').next().unwrap_or_default();
        if path.len() < link.len() && crates.contains(krate) {
            let mut item = path.replace('/', "::");
            // `struct.Method.html`
            if let Some(name) = file.strip_suffix(".html").and_then(|f| f.split_once('.')) {
                item = format!("{item}::{}", name.1);
            }
            found.insert(item);
        }
    }
    found
}

/// The test's own eyes.
#[test]
fn every_way_to_show_a_type_is_seen() {
    let crates = ["http", "either"].map(str::to_owned).into();
    let page = "<a href=\"../../http/method/struct.Method.html#method.as_str\">Method</a>\
                <a href=\"../../http/index.html\"><a href=\"../std/string/struct.String.html\"><a href=\"struct.Own.html\">\
                <h2 id=\"blanket-implementations\" class=\"section-header\">\
                <a href=\"../either/enum.Either.html\">";
    let found: Vec<String> = foreign(page, &crates).into_iter().collect();
    assert_eq!(found, ["http", "http::method::Method"]);
}

/// The names of all crates that this one may be built with; a crate is called as its package is.
fn dependencies() -> BTreeSet<String> {
    let lock: toml::Table = include_str!("../Cargo.lock").parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    let names = packages
        .iter()
        .filter_map(|package| package["name"].as_str());
    let mut crates: BTreeSet<String> = names.map(|name| name.replace('-', "_")).collect();
    assert!(
        crates.remove("handover") && crates.len() > 100,
        "{crates:?}"
    );
    crates
}

/// Makes the documentation, and an empty directory beside it for each crate.
fn documentation(crates: &BTreeSet<String>) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_handover"));
    let target = program.ancestors().nth(2).expect("a target directory");
    let own_target = target.join("public_api");
    let docs = own_target.join("doc");
    // Made anew: rustdoc keeps the pages of what is no longer there.
    let _ = fs::remove_dir_all(&docs);
    for name in crates {
        fs::create_dir_all(docs.join(name)).expect("a directory");
    }
    let output = cargo()
        .args(["rustdoc", "--lib", "--frozen", "--quiet", "--target-dir"])
        .arg(&own_target)
        .env("CARGO_BUILD_BUILD_DIR", target)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    docs
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}

fn pages_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(pages_below(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "html")
        {
            found.push(path);
        }
    }
    found
}
