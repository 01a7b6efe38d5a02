//! Looks at everything the controller needs, goes on after the first surprise, and says for each what is so and what to do.
//!
//! It changes nothing but a probe object in the landing zone, which it removes, and the data directory, which it makes like a start would.

mod mqtt;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use muster_intake::amqp::Found;
use muster_landing::LandingError;
use muster_store::SchemaState;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;

use crate::api::problem::Chain;
use crate::controller::{StartError, install_tls, open_landing, open_store};
use crate::data_dir::DataDir;
use crate::settings::{LandingKind, Settings};

/// How long each part may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Less free space than this is too little.
const MIN_FREE_BYTES: u64 = 1 << 30;
/// Descriptors needed beside those of the embedded broker: HTTP connections, uploads, database, files.
const OTHER_FILES: u64 = 2_000;
/// No clock shows an earlier time.
const EARLIEST: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it will do.
    pub ok: bool,
    /// What is so.
    pub detail: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), next_step: None }
    }

    fn bad(name: &'static str, detail: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into(), next_step: Some(next_step.into()) }
    }

    fn noting(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }
}

/// Looks at everything, in the order a start would need it.
pub async fn run(settings: &Settings) -> Vec<Check> {
    install_tls();
    let mut checks = vec![check_settings(settings), check_clock(OffsetDateTime::now_utc()), check_open_files(settings)];
    let data_dir = match DataDir::open(&settings.server.data_dir) {
        Ok(dir) => dir,
        Err(error) => {
            checks.push(Check::bad("data directory", Chain(&error).to_string(), "choose another with server.data_dir"));
            return checks;
        }
    };
    checks.push(check_disk(data_dir.path()));
    checks.push(check_listen("http", settings.server.listen, "server.listen"));
    checks.push(check_database(settings).await);
    checks.push(check_broker(settings).await);
    checks.push(check_landing(settings, &data_dir).await);
    checks.extend(check_amqp(settings).await);
    checks
}

fn check_settings(settings: &Settings) -> Check {
    match settings.warnings() {
        [] => Check::good("settings", "complete, and nothing risky"),
        warnings => Check::good("settings", format!("complete, with {} warning(s)", warnings.len())).noting(warnings.join(" ")),
    }
}

fn check_clock(now: OffsetDateTime) -> Check {
    if now < EARLIEST {
        return Check::bad(
            "clock",
            format!("it shows {now}, which is in the past"),
            "set it (chrony, systemd-timesyncd): grants carry times, and devices and storage refuse those that are off",
        );
    }
    Check::good("clock", now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_else(|_| now.to_string()))
}

fn check_open_files(settings: &Settings) -> Check {
    const NAME: &str = "open files";
    let needed = OTHER_FILES + if settings.broker_is_embedded() { settings.mqtt.embedded_connections as u64 } else { 0 };
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        // A start raises the soft limit to the hard one.
        Ok((_, hard)) if hard >= needed => Check::good(NAME, format!("{hard} allowed, {needed} may be needed")),
        Ok((_, hard)) if settings.broker_is_embedded() && hard > OTHER_FILES => {
            Check::good(NAME, format!("{hard} allowed, {needed} may be needed")).noting(format!(
                "with more than about {} devices connected: raise the limit (ulimit -n, LimitNOFILE=), or use a broker of its own",
                hard - OTHER_FILES
            ))
        }
        Ok((_, hard)) => Check::bad(NAME, format!("{hard} allowed, {needed} may be needed"), "raise the limit (ulimit -n, LimitNOFILE=)"),
        Err(error) => Check::bad(NAME, format!("the limit cannot be read: {error}"), "check the limits of this system"),
    }
}

fn check_disk(path: &std::path::Path) -> Check {
    const NAME: &str = "data directory";
    match nix::sys::statvfs::statvfs(path) {
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let detail = format!("{}, {:.1} GiB free", path.display(), free as f64 / f64::from(1 << 30));
            if free < MIN_FREE_BYTES {
                return Check::bad(NAME, detail, "make room, or choose another with server.data_dir: bundles and the database grow");
            }
            Check::good(NAME, detail)
        }
        Err(error) => Check::bad(NAME, format!("{}: {error}", path.display()), "check the directory"),
    }
}

fn check_listen(name: &'static str, address: SocketAddr, setting: &str) -> Check {
    if address.port() == 0 {
        return Check::good(name, "any free port");
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::good(name, format!("{address} is free")),
        Err(_) if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() => {
            Check::good(name, format!("a program listens on {address}"))
                .noting(format!("if that is not this controller: choose another address with {setting}"))
        }
        Err(error) => Check::bad(name, format!("{address}: {error}"), format!("choose another address with {setting}")),
    }
}

async fn check_database(settings: &Settings) -> Check {
    const NAME: &str = "database";
    let looked = async {
        let store = match open_store(settings).await {
            Ok(store) => store,
            Err(StartError::Database(error)) => {
                return Check::bad(NAME, Chain(&error).to_string(), "check database.url, and whether the database runs");
            }
            Err(error) => return Check::bad(NAME, Chain(&error).to_string(), "check database.url"),
        };
        let place = store.place().to_owned();
        let check = match store.schema_state().await {
            Ok(SchemaState::Current) => Check::good(NAME, format!("{place}, schema current")),
            Ok(SchemaState::Behind { pending }) => Check::good(NAME, format!("{place}, {} schema step(s) to apply", pending.len()))
                .noting("a start applies them, or run muster migrate"),
            Ok(SchemaState::Newer { unknown }) => Check::bad(
                NAME,
                format!("{place} was used by a newer version, which applied {}", unknown.join(", ")),
                "upgrade this program",
            ),
            Err(error) => Check::bad(NAME, Chain(&error).to_string(), "check the rights of the user in database.url"),
        };
        store.close().await;
        check
    };
    tokio::time::timeout(PATIENCE, looked)
        .await
        .unwrap_or_else(|_| Check::bad(NAME, format!("no answer within {PATIENCE:?}"), "check database.url, and whether the database runs"))
}

async fn check_broker(settings: &Settings) -> Check {
    const NAME: &str = "broker";
    if settings.broker_is_embedded() {
        return check_listen(NAME, settings.mqtt.embedded_listen, "mqtt.embedded_listen");
    }
    let mqtt = settings.mqtt.clone();
    let next = "check mqtt.url, mqtt.username, mqtt.password and mqtt.ca_file, and whether the broker runs";
    match tokio::task::spawn_blocking(move || mqtt::probe(&mqtt, PATIENCE)).await {
        Ok(Ok(facts)) => {
            let check = if facts.retain {
                Check::good(NAME, facts.to_string())
            } else {
                Check::good(NAME, facts.to_string()).noting("without retained messages presence is known later: only when a device speaks")
            };
            match facts.max_packet_bytes {
                Some(max) if max < muster_wire::properties::MAX_ANSWER_BYTES as u32 => Check::bad(
                    NAME,
                    facts.to_string(),
                    "allow packets of 512 KB at the broker (Mosquitto: max_packet_size): answers have up to 128 KB",
                ),
                _ => check,
            }
        }
        Ok(Err(error)) => Check::bad(NAME, format!("{}: {error}", settings.mqtt.url), next),
        Err(error) => Check::bad(NAME, error.to_string(), next),
    }
}

async fn check_landing(settings: &Settings, data_dir: &DataDir) -> Check {
    const NAME: &str = "landing";
    let kind = settings.landing.kind;
    let next = match kind {
        LandingKind::Directory => "check landing.path and its free space",
        LandingKind::Azure => "check the section landing, the role of the credential (Storage Blob Data Contributor), and the network",
    };
    let looked = async {
        // Where devices would reach us does not matter to the probe.
        let landing = open_landing(settings, data_dir, "http://127.0.0.1").await?;
        landing.check().await.map_err(StartError::Landing)
    };
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(())) => Check::good(NAME, format!("{}: written, sealed, read and removed a probe", kind.as_str())),
        Ok(Err(StartError::Landing(LandingError::Check { step, source }))) => {
            Check::bad(NAME, format!("{}: {step} failed: {}", kind.as_str(), Chain(&source)), next)
        }
        Ok(Err(error)) => Check::bad(NAME, format!("{}: {}", kind.as_str(), Chain(&error)), next),
        Err(_) => Check::bad(NAME, format!("{}: no answer within {PATIENCE:?}", kind.as_str()), next),
    }
}

/// Only where alerts come from a queue.
async fn check_amqp(settings: &Settings) -> Option<Check> {
    const NAME: &str = "amqp";
    const NEXT: &str = "check the section amqp, whether RabbitMQ runs, and the rights of the user in amqp.url on its vhost";
    let options = settings.amqp_options("doctor")?;
    Some(match tokio::time::timeout(PATIENCE, muster_intake::amqp::look(&options)).await {
        Ok(Ok(Found { waiting: Some(waiting), dead_letters: Some(dead) })) => {
            let check = Check::good(NAME, format!("{}: {waiting} alert(s) wait, and {dead} dead letter(s)", options.queue));
            match dead {
                0 => check,
                _ => check.noting("muster alerts parked shows what was no alert, and why"),
            }
        }
        Ok(Ok(Found { waiting, .. })) => {
            let missing = if waiting.is_none() { &options.queue } else { &options.dead_letter_queue };
            Check::good(NAME, format!("reached; the queue {missing} does not exist yet")).noting("a start makes it")
        }
        Ok(Err(fault)) => Check::bad(NAME, fault.to_string(), NEXT),
        Err(_) => Check::bad(NAME, format!("no answer within {PATIENCE:?}"), NEXT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags: Vec<_> = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Settings::load_from(None, [], &flags).expect("good settings")
    }

    #[tokio::test]
    async fn the_defaults_in_a_fresh_directory_are_healthy() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data").display().to_string();
        let checks =
            run(&settings(&[("server.data_dir", &data), ("server.listen", "127.0.0.1:0"), ("mqtt.embedded_listen", "127.0.0.1:0")])).await;
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["settings", "clock", "open files", "data directory", "http", "database", "broker", "landing"]);
        let bad: Vec<_> = checks.iter().filter(|check| !check.ok && check.name != "open files").collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    #[tokio::test]
    async fn it_goes_on_after_a_surprise_and_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().display().to_string();
        let unused = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let (database, broker) = (format!("postgres://nobody@{unused}/none"), format!("mqtt://{unused}"));
        let checks = run(&settings(&[
            ("server.data_dir", &data),
            ("database.url", &database),
            ("mqtt.url", &broker),
            ("landing.path", "/proc/nowhere"),
            ("amqp.url", &format!("amqp://guest:guest@{unused}/%2f")),
        ]))
        .await;
        for name in ["database", "broker", "landing", "amqp"] {
            let check = checks.iter().find(|check| check.name == name).expect("looked at");
            assert!(!check.ok && check.next_step.is_some(), "{check:?}");
        }
    }

    #[test]
    fn a_clock_in_the_past_is_seen() {
        assert!(!check_clock(OffsetDateTime::UNIX_EPOCH).ok);
        assert!(check_clock(OffsetDateTime::now_utc()).ok);
    }
}
