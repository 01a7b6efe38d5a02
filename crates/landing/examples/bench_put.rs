//! How fast bundles land, beside the plainest thing that could take them, in the same run.
//!
//! ```text
//! cargo run --release -p muster-landing --example bench_put                     uploads of 1 MiB, 64 at a time
//! cargo run --release -p muster-landing --example bench_put -- --azurite        and Azurite beside it
//! cargo run --release -p muster-landing --example bench_put -- --figures        the same, and lines of JSON for the table of `make bench`
//! cargo run --release -p muster-landing --example bench_put -- big 2048         one object of 2 GiB through a directory
//! cargo run --release -p muster-landing --example bench_put -- big 2048 azure   and through a storage account (Azurite)
//! ```
//!
//! Each server is a process of its own, so its processor time and its peak memory are its own. "plain" is an axum handler
//! that streams a PUT to a file while hashing it; "ours" takes the same PUT with a grant; "ours, sealed" is also sealed,
//! so hashed, by the time it counts. Passes are interleaved; figures are medians, and ratios are of the same round.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_landing::{
    AzureCredential, AzureLanding, AzureOptions, DirectoryLanding, DirectoryOptions, Landing, Limits, endpoint, limits::STREAM_BUFFER_BYTES,
};
use muster_wire::{AttemptId, CollectionId};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

const DEVICES: usize = 64;
const UPLOADS: usize = 1_500;
const ROUNDS: usize = 5;
const NAMES_PER_DEVICE: usize = 8;
const BIG_BLOCK_MIB: usize = 8;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", kind, directory] => serve(kind, Path::new(directory)).await,
        ["big", mib] => big(mib.parse().expect("a number of MiB"), "directory").await,
        ["big", mib, "azure"] => big(mib.parse().expect("a number of MiB"), "azure").await,
        [] => compare(false, false).await,
        ["--azurite"] => compare(true, false).await,
        ["--figures"] => compare(true, true).await,
        _ => println!("see the first lines of this program"),
    }
}

/// One server; says where to upload to, then serves until its parent is gone.
async fn serve(kind: &str, directory: &Path) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let mut targets = vec![base.clone()];
    let router = match kind {
        "plain" => {
            std::fs::create_dir_all(directory).expect("a directory");
            targets.extend((0..DEVICES).map(|device| format!("{base}/{device}")));
            Router::new().route("/{device}/{name}", put(plain)).with_state(Arc::new(directory.to_owned()))
        }
        kind => {
            let landing = landing(kind, directory, &base).await;
            for _ in 0..DEVICES {
                let attempt = CollectionId::new().task(targets.len() as u32).attempt(1);
                let grant = landing.open_inbox(attempt, rig::in_an_hour()).await.expect("a grant");
                targets.push(format!("{} {attempt}", grant.url().expose_secret()));
            }
            let router = Router::new().route("/seal/{attempt}/{name}", post(seal)).with_state(landing.clone());
            match &landing {
                Landing::Directory(directory) => router.nest("/landing", endpoint::router(directory)),
                Landing::Azure(_) => router,
            }
        }
    };
    println!("{}\n", targets.join("\n"));
    match kind {
        "plain" => tokio::spawn(async move { axum::serve(listener, router).await }),
        _ => tokio::spawn(async move { axum::serve(endpoint::SmallReads(listener), router).await }),
    };
    // The parent holds the other end.
    let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
    std::process::exit(0);
}

async fn landing(kind: &str, directory: &Path, base: &str) -> Landing {
    if kind != "azure" {
        let signing_key = "0123456789abcdef0123456789abcdef".into();
        let public_url = base.parse().expect("a URL");
        let options =
            DirectoryOptions { path: directory.into(), public_url, signing_key, fsync: kind == "fsync", limits: Limits::default() };
        return Landing::Directory(DirectoryLanding::open(options).await.expect("a landing zone"));
    }
    let _ = rig::client();
    let azurite = std::env::var("BENCH_AZURITE").expect("the parent says where");
    let options = AzureOptions {
        endpoint: Some(format!("{azurite}/{}", rig::AZURITE_ACCOUNT).parse().expect("a URL")),
        account: Some(rig::AZURITE_ACCOUNT.into()),
        credential: AzureCredential::SharedKey(rig::AZURITE_KEY.into()),
        container_prefix: String::new(),
        limits: Limits::default(),
    };
    Landing::Azure(AzureLanding::open(options).expect("a landing zone"))
}

/// The plainest thing: write what comes, hash what is written, rename.
async fn plain(State(directory): State<Arc<PathBuf>>, UrlPath((device, name)): UrlPath<(String, String)>, body: Body) -> StatusCode {
    let path = directory.join(format!("{device}-{name}"));
    let partial = path.with_extension("part");
    let mut file = tokio::fs::File::create(&partial).await.expect("a file");
    let mut hash = Sha256::new();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.expect("a whole body");
        hash.update(&piece);
        file.write_all(&piece).await.expect("a disk with room");
    }
    file.flush().await.expect("a disk with room");
    tokio::fs::rename(&partial, &path).await.expect("a name");
    std::hint::black_box(hash.finalize());
    StatusCode::CREATED
}

async fn seal(State(landing): State<Landing>, UrlPath((attempt, name)): UrlPath<(AttemptId, String)>) -> String {
    landing.seal(attempt, &rig::name(&name)).await.expect("an object to seal").sha256.to_string()
}

struct Server {
    child: Child,
    base: String,
    /// Container URL, query with its question mark, attempt.
    targets: Vec<(String, String, String)>,
}

impl Server {
    fn start(kind: &str, directory: &Path, azurite: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["serve", kind]).arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(azurite) = azurite {
            command.env("BENCH_AZURITE", azurite);
        }
        let mut child = command.spawn().expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
        let mut lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let base = lines.remove(0);
        let targets = lines.iter().map(|line| {
            let (url, attempt) = line.split_once(' ').unwrap_or((line, ""));
            let (container, query) =
                url.split_once('?').map_or((url, String::new()), |(container, query)| (container, format!("?{query}")));
            (container.to_owned(), query, attempt.to_owned())
        });
        let targets = targets.collect();
        Self { child, base, targets }
    }

    /// Processor time so far and the highest memory.
    fn cost(&self) -> (Duration, u64) {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("a live child");
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|i| fields[*i].parse::<u64>().expect("a number")).sum();
        let status = read("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        (Duration::from_millis(ticks * 10), peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Uploads per second of one pass, and the server's milliseconds for each.
async fn pass(server: &Server, http: &reqwest::Client, bytes: &Bytes, sealed: bool) -> (f64, f64) {
    let next = AtomicUsize::new(0);
    let before = server.cost().0;
    let started = Instant::now();
    let devices = server.targets.iter().map(|(container, query, attempt)| {
        let next = &next;
        async move {
            while next.fetch_add(1, Ordering::Relaxed) < UPLOADS {
                let name = next.load(Ordering::Relaxed) % NAMES_PER_DEVICE;
                let request = http
                    .put(format!("{container}/{name}{query}"))
                    .header("x-ms-blob-type", "BlockBlob")
                    .header("x-ms-version", "2022-11-02");
                let answer = request.body(bytes.clone()).send().await.expect("an answer");
                assert_eq!(answer.status(), 201);
                if sealed {
                    let answer = http.post(format!("{}/seal/{attempt}/{name}", server.base)).send().await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                }
            }
        }
    });
    futures_util::future::join_all(devices).await;
    let elapsed = started.elapsed();
    (UPLOADS as f64 / elapsed.as_secs_f64(), (server.cost().0 - before).as_secs_f64() * 1000.0 / UPLOADS as f64)
}

async fn compare(with_azurite: bool, figures: bool) {
    let directory = tempfile::tempdir().expect("a private directory");
    let http = rig::client();
    let bytes = Bytes::from(rig::noise(rig::MIB, 1));
    let azurite = if with_azurite { Some(rig::azurite().await) } else { None };
    let mut kinds = vec![
        ("plain", "plain", false),
        ("ours", "ours", false),
        ("ours, sealed", "ours", true),
        ("ours, fsync", "fsync", false),
        ("ours, fsync, sealed", "fsync", true),
    ];
    if figures {
        kinds.retain(|(label, ..)| !label.contains("fsync"));
    }
    if with_azurite {
        kinds.push(("Azurite", "azure", false));
    }
    let servers: Vec<Server> =
        kinds.iter().map(|(label, kind, _)| Server::start(kind, &directory.path().join(label.replace([',', ' '], "-")), azurite)).collect();
    let idle: Vec<u64> = servers.iter().map(|server| server.cost().1).collect();
    let mut results = vec![Vec::new(); kinds.len()];
    for round in 0..ROUNDS {
        for step in 0..kinds.len() {
            let which = (round + step) % kinds.len();
            results[which].push(pass(&servers[which], &http, &bytes, kinds[which].2).await);
        }
    }
    println!("{UPLOADS} uploads of 1 MiB, {DEVICES} at a time, {ROUNDS} rounds");
    println!("{:22} {:>10} {:>12} {:>14} {:>10} {:>12}", "", "uploads/s", "of plain", "range", "cpu ms", "peak RSS MB");
    for (which, (label, ..)) in kinds.iter().enumerate() {
        let rates: Vec<f64> = results[which].iter().map(|(rate, _)| *rate).collect();
        let ratios: Vec<f64> = results[which].iter().zip(&results[0]).map(|((rate, _), (plain, _))| rate / plain).collect();
        let costs: Vec<f64> = results[which].iter().map(|(_, cost)| *cost).collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
        let peak = servers[which].cost().1;
        println!(
            "{label:22} {:>10.0} {:>11.0}% {:>14} {:>10.2} {:>6.1} (idle {:.1})",
            median(rates),
            median(ratios) * 100.0,
            format!("{:.0}–{:.0}%", low * 100.0, high * 100.0),
            median(costs),
            peak as f64 / 1e6,
            idle[which] as f64 / 1e6
        );
    }
    if figures {
        // What is hashed counts: sealed objects beside a handler that hashes what it writes.
        let place = |label| kinds.iter().position(|(known, ..)| *known == label).expect("one of the kinds");
        let (plain, sealed, azurite) = (place("plain"), place("ours, sealed"), place("Azurite"));
        let beside =
            |other: usize| median(results[sealed].iter().zip(&results[other]).map(|((ours, _), (theirs, _))| ours / theirs).collect());
        let rate = |which: usize| median(results[which].iter().map(|(rate, _)| *rate).collect());
        let buffers = (DEVICES * STREAM_BUFFER_BYTES) as f64;
        let peak = servers[sealed].cost().1 as f64;
        figure("plain", 100.0 * beside(plain), &format!("{:.0} % ({:.0}/s of {:.0}/s)", 100.0 * beside(plain), rate(sealed), rate(plain)));
        figure("azurite", beside(azurite), &format!("{:.1} × ({:.0}/s)", beside(azurite), rate(azurite)));
        let (own, all, idle) = (peak / 1e6, buffers / 1e6, idle[sealed] as f64 / 1e6);
        figure(
            "memory",
            peak / buffers,
            &format!("{:.2} × ({own:.0} MB, {all:.0} MB of it buffers, {idle:.0} MB before work)", peak / buffers),
        );
    }
    println!(
        "stream buffer {} KiB; 2 × {DEVICES} × that is {:.1} MB",
        STREAM_BUFFER_BYTES / 1024,
        (2 * DEVICES * STREAM_BUFFER_BYTES) as f64 / 1e6
    );
}

/// A line for the table of `make bench`. Names and texts of ours hold nothing that JSON would escape.
fn figure(name: &str, value: f64, measured: &str) {
    println!("{{\"figure\":\"{name}\",\"value\":{value},\"measured\":\"{measured}\"}}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One large object: uploaded in blocks, sealed, and what that cost the process that sealed it.
async fn big(mib: usize, kind: &str) {
    let directory = tempfile::tempdir().expect("a private directory");
    let http = rig::client();
    let azurite = if kind == "azure" { Some(rig::azurite().await) } else { None };
    let server = Server::start(kind, directory.path(), azurite);
    let (container, query, attempt) = &server.targets[0];
    let query = query.trim_start_matches('?');
    let started = Instant::now();
    let (mut hash, mut ids) = (Sha256::new(), Vec::new());
    for number in 0..mib.div_ceil(BIG_BLOCK_MIB) {
        let block = rig::noise(BIG_BLOCK_MIB * rig::MIB, number as u64 + 1);
        hash.update(&block);
        let id = base64::engine::general_purpose::URL_SAFE.encode(format!("{number:06}"));
        let url = format!("{container}/big.zip?comp=block&blockid={id}&{query}");
        assert_eq!(http.put(url).header("x-ms-version", "2022-11-02").body(block).send().await.expect("an answer").status(), 201);
        ids.push(format!("<Latest>{id}</Latest>"));
    }
    let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{}</BlockList>", ids.concat());
    let url = format!("{container}/big.zip?comp=blocklist&{query}");
    assert_eq!(http.put(url).header("x-ms-version", "2022-11-02").body(list).send().await.expect("an answer").status(), 201);
    let uploaded = started.elapsed();
    let answer = http.post(format!("{}/seal/{attempt}/big.zip", server.base)).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("a digest"), rig::hex(&hash.finalize()));
    let sealed = started.elapsed() - uploaded;
    println!(
        "{kind}: {mib} MiB uploaded in {uploaded:.1?}, sealed in {sealed:.1?}, peak memory of the service {:.1} MB",
        server.cost().1 as f64 / 1e6
    );
}
