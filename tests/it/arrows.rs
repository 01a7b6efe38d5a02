//! The shape of the house, held: which crate may know which, where each outside library lives, how large a file may grow, what the lock
//! may hold. The drawing itself is in `docs/ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};

/// For each of our crates, all of ours it may use: what a line of the drawing reaches, directly or further down.
const ARROWS: &[(&str, &[&str])] = &[
    ("muster-wire", &[]),
    ("muster-migrations", &[]),
    ("muster-domain", &["muster-wire"]),
    ("muster-store", &["muster-wire", "muster-domain", "muster-migrations"]),
    ("muster-landing", &["muster-wire"]),
    ("muster-dispatch", &["muster-wire", "muster-domain", "muster-migrations", "muster-store", "muster-landing"]),
    ("muster-intake", &["muster-wire", "muster-domain", "muster-migrations", "muster-store"]),
    (
        "muster-controller",
        &["muster-wire", "muster-domain", "muster-migrations", "muster-store", "muster-landing", "muster-dispatch", "muster-intake"],
    ),
    ("muster-agent", &["muster-wire"]),
    ("muster-cli", EVERYTHING_BELOW_A_PROGRAM),
    ("muster-tests", EVERYTHING_BELOW_A_PROGRAM),
];

const EVERYTHING_BELOW_A_PROGRAM: &[&str] = &[
    "muster-wire",
    "muster-domain",
    "muster-migrations",
    "muster-store",
    "muster-landing",
    "muster-dispatch",
    "muster-intake",
    "muster-controller",
    "muster-agent",
];

/// Outside libraries with few homes: everything else reaches them through the crate named here. The tests crate is a stranger that speaks
/// to the same services, so it may hold clients of its own.
const HOMES: &[(&str, &[&str])] = &[
    ("sea-orm", &["muster-store", "muster-migrations"]),
    ("sea-orm-migration", &["muster-store", "muster-migrations"]),
    ("sqlx", &["muster-store", "muster-tests"]),
    ("rumqttc", &["muster-dispatch", "muster-agent", "muster-tests"]),
    ("azure_core", &["muster-landing"]),
    ("azure_storage_blob", &["muster-landing"]),
    ("azure_identity", &["muster-landing"]),
    ("mqtt5", &["muster-controller"]),
    ("axum", &["muster-landing", "muster-controller"]),
    ("reqwest", &["muster-landing", "muster-agent", "muster-cli", "muster-tests"]),
    ("lapin", &["muster-intake", "muster-tests"]),
    ("utoipa", &["muster-wire", "muster-controller"]),
    ("config", &["muster-controller"]),
    ("csv", &["muster-controller"]),
    ("serde-saphyr", &["muster-cli"]),
    ("indicatif", &["muster-cli"]),
    ("comfy-table", &["muster-cli"]),
    ("croner", &["muster-domain"]),
    ("chrono", &["muster-domain"]),
    ("chrono-tz", &["muster-domain"]),
    ("cargo_metadata", &["muster-tests"]),
];

/// Libraries that are one file's business inside their home, so that replacing them is one file's work.
const ONE_FILE: &[(&str, &str)] = &[("mqtt5::", "crates/controller/src")];

/// Libraries whose name in code is not the package's.
const NAMED_OTHERWISE: &[(&str, &str)] = &[("md-5", "md5")];

/// Names that say nothing about what is inside, and therefore collect everything.
const NAMES_THAT_SAY_NOTHING: &[&str] =
    &["utils", "util", "common", "helpers", "helper", "core", "manager", "managers", "misc", "shared", "stuff"];

/// Past this a file should be split by noun.
const FILE_LINES_WARN: usize = 600;
/// Past this it must be.
const FILE_LINES_MAX: usize = 700;
/// Files that may be longer, and why. Empty, and better so.
const LONG_FILES: &[(&str, &str)] = &[];

/// The lock had 476 packages when this was written; more than this is a decision, not an accident.
const LOCKED_PACKAGES_MAX: usize = 620;
/// One TLS provider (ring), no C library from the system, nothing we decided against.
const NOT_IN_THE_LOCK: &[(&str, &str)] = &[
    ("aws-lc-sys", "a second TLS provider"),
    ("aws-lc-rs", "a second TLS provider"),
    ("openssl-sys", "a second TLS provider"),
    ("native-tls", "a second TLS provider"),
    ("azure_storage_blobs", "the frozen predecessor of azure_storage_blob"),
    ("backoff", "unmaintained"),
];

/// What holds no source of ours.
const NOT_OURS: &[&str] = &[".git", ".cache", "target", "muster-data", "node_modules", "__pycache__", "vendor"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate stands in the workspace").to_path_buf()
}

fn metadata() -> Metadata {
    // Without dependencies no package has to be present, so this asks neither network nor cache.
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata of this workspace")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a directory, relative to the workspace, without build products.
fn files(below: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(below).unwrap_or_else(|e| panic!("{}: {e}", below.display())).map(|e| e.expect("an entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("a type");
        // `.git` is a file where this is one of several work trees.
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path().strip_prefix(root()).expect("below the root").to_path_buf());
        }
    }
}

fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension().is_some_and(|e| wanted.iter().any(|w| e == *w))
}

fn complain(problems: &[String]) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

#[test]
fn our_crates_know_only_what_is_below_them() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let name = package.name.as_str();
        let Some(below) = allowed.get(name) else {
            problems.push(format!("{name} is not in the table: where does it stand in the house?"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.name.starts_with("muster-")) {
            if !below.contains(&dependency.name.as_str()) {
                problems.push(format!("{name} uses {}, which is not below it", dependency.name));
            }
        }
    }
    complain(&problems);
}

#[test]
fn the_arrows_form_no_circle() {
    // The table is the closure, so whatever a crate may use, it may also use what that one may use.
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for (name, below) in ARROWS {
        assert!(!below.contains(name), "{name} is below itself");
        for lower in *below {
            for lowest in allowed[lower] {
                assert!(below.contains(lowest), "{name} may use {lower}, which may use {lowest}, which {name} may not");
            }
        }
    }
}

#[test]
fn every_outside_library_has_its_home() {
    let homes: BTreeMap<_, _> = HOMES.iter().copied().collect();
    let mut problems = Vec::new();
    for package in &metadata().packages {
        for dependency in &package.dependencies {
            if let Some(allowed) = homes.get(dependency.name.as_str())
                && !allowed.contains(&package.name.as_str())
            {
                problems.push(format!("{} uses {}; its home is {}", package.name, dependency.name, allowed.join(", ")));
            }
        }
    }
    complain(&problems);
}

#[test]
fn a_library_behind_one_file_is_named_in_one_file() {
    for (path, home) in ONE_FILE {
        let mut holders = Vec::new();
        for file in all_files().into_iter().filter(|f| f.starts_with(home) && has_extension(f, &["rs"])) {
            let text = read(&root().join(&file));
            if text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(path)) {
                holders.push(file.display().to_string());
            }
        }
        assert_eq!(holders.len(), 1, "{path} belongs in exactly one file of {home}, and is in {holders:?}");
    }
}

#[test]
fn every_dependency_is_used() {
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let home = package.manifest_path.parent().expect("a manifest stands in a directory").as_std_path().to_path_buf();
        let mut sources = Vec::new();
        files(&home, &mut sources);
        let text: String = sources.iter().filter(|f| has_extension(f, &["rs"])).map(|f| read(&root().join(f))).collect();
        for dependency in &package.dependencies {
            let package_name = dependency.rename.as_ref().unwrap_or(&dependency.name);
            let otherwise = NAMED_OTHERWISE.iter().find(|(name, _)| name == package_name).map(|(_, ident)| (*ident).to_owned());
            let ident = otherwise.unwrap_or_else(|| package_name.replace('-', "_"));
            if !text.contains(&ident) {
                problems.push(format!("{} declares {} and never names it", package.name, dependency.name));
            }
        }
    }
    complain(&problems);
}

#[test]
fn every_manifest_takes_versions_and_lints_from_the_workspace() {
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let manifest = read(package.manifest_path.as_std_path());
        let mut section = "";
        let mut lints = false;
        for line in manifest.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            lints |= section == "[lints]" && line.replace(' ', "") == "workspace=true";
            let is_inherited = line.contains(".workspace = true") || line.contains("workspace = true");
            if section.contains("dependencies") && !is_inherited {
                problems.push(format!("{}: {line:?} has a version of its own; put it into the root manifest", package.name));
            }
        }
        if !lints {
            problems.push(format!("{} does not inherit the workspace lints", package.name));
        }
    }
    complain(&problems);
}

#[test]
fn every_outside_dependency_says_what_it_is_for() {
    let manifest = read(&root().join("Cargo.toml"));
    let lines = manifest.lines().skip_while(|l| *l != "[workspace.dependencies]").skip(1).take_while(|l| !l.starts_with('['));
    let mut seen = 0;
    let mut problems = Vec::new();
    for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
        seen += 1;
        let is_ours = line.contains("path = ");
        let reason = line.rsplit_once(" # ").map(|(_, reason)| reason.trim()).unwrap_or_default();
        if !is_ours && reason.is_empty() {
            problems.push(format!("{line}: a word on why, please"));
        }
    }
    assert!(seen > 10, "the dependency table was not found");
    complain(&problems);
}

#[test]
fn no_crate_or_module_has_a_name_that_says_nothing() {
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let last = package.name.rsplit('-').next().unwrap_or_default();
        if NAMES_THAT_SAY_NOTHING.contains(&last) {
            problems.push(format!("crate {}", package.name));
        }
    }
    for file in all_files().into_iter().filter(|f| has_extension(f, &["rs"])) {
        let names = file.with_extension("");
        for part in names.iter().map(|p| p.to_string_lossy()) {
            if NAMES_THAT_SAY_NOTHING.contains(&part.as_ref()) {
                problems.push(format!("file {}", file.display()));
            }
        }
        for line in read(&root().join(&file)).lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let Some(at) = words.iter().position(|w| *w == "mod")
                && let Some(name) = words.get(at + 1)
                && words[..at].iter().all(|w| w.starts_with("pub"))
                && NAMES_THAT_SAY_NOTHING.contains(&name.trim_end_matches(['{', ';']))
            {
                problems.push(format!("module {name} in {}", file.display()));
            }
        }
    }
    complain(&problems);
}

#[test]
fn no_file_outgrows_its_noun() {
    let mut problems = Vec::new();
    for file in all_files().into_iter().filter(|f| has_extension(f, &["rs", "sh", "py", "sql"])) {
        let lines = read(&root().join(&file)).lines().count();
        let name = file.display().to_string();
        let excuse = LONG_FILES.iter().find(|(path, _)| *path == name);
        if lines > FILE_LINES_MAX && excuse.is_none() {
            problems.push(format!("{name} has {lines} lines, {FILE_LINES_MAX} are allowed: split it by noun"));
        } else if lines > FILE_LINES_WARN && excuse.is_none() {
            eprintln!("{name} has {lines} lines; past {FILE_LINES_WARN} it wants to be split by noun");
        }
    }
    for (path, reason) in LONG_FILES {
        assert!(root().join(path).is_file(), "{path} is excused for its length ({reason}) and does not exist");
    }
    complain(&problems);
}

/// Name of each package in the lock, and the source it comes from (none for our own).
fn locked() -> Vec<(String, Option<String>)> {
    let lock = read(&root().join("Cargo.lock"));
    let value = |line: &str, key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"').map(str::to_owned);
    lock.split("[[package]]")
        .skip(1)
        .map(|package| {
            let name = package.lines().find_map(|l| value(l, "name")).expect("a locked package has a name");
            (name, package.lines().find_map(|l| value(l, "source")))
        })
        .collect()
}

#[test]
fn the_lock_stays_small_and_holds_one_tls_provider() {
    let locked = locked();
    assert!(locked.len() > 50, "the lock was not understood: {} packages", locked.len());
    assert!(locked.len() <= LOCKED_PACKAGES_MAX, "{} packages in the lock, {LOCKED_PACKAGES_MAX} are allowed", locked.len());
    let names: BTreeSet<_> = locked.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains("ring"), "the one TLS provider is ring");
    for (banned, reason) in NOT_IN_THE_LOCK {
        assert!(!names.contains(banned), "{banned} is in the lock: {reason}; cargo tree -i {banned} says who brings it");
    }
    let ours: BTreeSet<_> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (name, source) in &locked {
        match source {
            Some(source) => assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name} comes from elsewhere"),
            None => assert!(ours.contains(name.as_str()), "{name} has no source and is not ours"),
        }
    }
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two halves each, so that this file does not find itself.
    let traces = [concat!("/wo", "rk/"), concat!("/root/", "."), concat!("/home/", "runner"), concat!("/tmp", "/t-")];
    let text = ["rs", "toml", "md", "sh", "py", "yml", "yaml", "json", "conf", "service", "sql", "html", "css", "js", "lock"];
    let mut problems = Vec::new();
    for file in all_files() {
        let no_extension = file.extension().is_none();
        if !no_extension && !has_extension(&file, &text) {
            continue;
        }
        let Ok(content) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in content.lines().enumerate() {
            for trace in traces.iter().filter(|t| line.contains(**t)) {
                problems.push(format!("{}:{}: {trace}", file.display(), number + 1));
            }
        }
    }
    complain(&problems);
}
