//! Facts about the machine, each a small text: what an engineer asks for first.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;

/// Most bytes of one fact.
pub(crate) const MAX_FACT_BYTES: usize = 1024 * 1024;
/// Longest a program may take that is asked for a fact.
pub(crate) const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
/// Most processes in the list.
pub(crate) const MAX_PROCESSES: usize = 5000;

/// One fact: the entry's name and its text, or why it is missing.
#[derive(Debug)]
pub(crate) struct Fact {
    pub name: &'static str,
    pub text: Result<String, String>,
}

/// All facts this machine can give.
pub(crate) async fn facts(started: OffsetDateTime) -> Vec<Fact> {
    let mut facts = tokio::task::spawn_blocking(|| {
        vec![
            file("os-release.txt", "/etc/os-release"),
            Fact { name: "uname.txt", text: uname() },
            Fact { name: "uptime.txt", text: joined(&["/proc/uptime", "/proc/loadavg"]) },
            file("meminfo.txt", "/proc/meminfo"),
            file("mounts.txt", "/proc/mounts"),
            Fact { name: "df.txt", text: disks() },
            Fact { name: "network-interfaces.txt", text: joined(&["/proc/net/dev", "/proc/net/route", "/proc/net/if_inet6"]) },
            file("resolv.conf.txt", "/etc/resolv.conf"),
            Fact { name: "processes.txt", text: processes() },
        ]
    })
    .await
    .unwrap_or_default();
    facts.push(Fact { name: "ip-addr.txt", text: program("ip", &["addr"]).await });
    let clock = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let since = started.format(&Rfc3339).unwrap_or_default();
    let synchronised = program("timedatectl", &["show"]).await.unwrap_or_else(|reason| format!("timedatectl: {reason}\n"));
    facts.push(Fact { name: "time.txt", text: Ok(format!("clock {clock}\nagent started {since}\n{synchronised}")) });
    facts
}

fn file(name: &'static str, path: &str) -> Fact {
    Fact { name, text: read(path) }
}

fn read(path: &str) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_FACT_BYTES)]).into_owned())
}

fn joined(paths: &[&str]) -> Result<String, String> {
    let found: Vec<String> = paths.iter().filter_map(|path| read(path).ok().map(|text| format!("# {path}\n{text}\n"))).collect();
    if found.is_empty() { Err(format!("none of {} can be read", paths.join(", "))) } else { Ok(found.concat()) }
}

fn uname() -> Result<String, String> {
    let part = |name: &str| read(&format!("/proc/sys/kernel/{name}")).map(|text| text.trim().to_owned());
    Ok(format!("{} {} {} {} {}\n", part("ostype")?, part("hostname")?, part("osrelease")?, part("version")?, std::env::consts::ARCH))
}

fn disks() -> Result<String, String> {
    let mut text = String::from("filesystem size_kb free_kb mounted_on\n");
    for line in read("/proc/mounts")?.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(place)) = (words.next(), words.next()) else { continue };
        // Pseudo file systems have no disk behind them, and a dead network mount would hang the whole bundle.
        if !device.starts_with('/') {
            continue;
        }
        if let Ok(disk) = nix::sys::statvfs::statvfs(place) {
            let kb = |blocks: u64| blocks.saturating_mul(disk.fragment_size()) / 1024;
            let _ = writeln!(text, "{device} {} {} {place}", kb(disk.blocks()), kb(disk.blocks_available()));
        }
    }
    Ok(text)
}

/// Share of a file system that is free, 0 to 1.
pub(crate) fn free_share(path: &Path) -> Option<f64> {
    let disk = nix::sys::statvfs::statvfs(path).ok()?;
    (disk.blocks() > 0).then(|| disk.blocks_available() as f64 / disk.blocks() as f64)
}

/// Names only: command lines hold secrets.
fn processes() -> Result<String, String> {
    let mut text = String::from("pid ppid state rss_kb name\n");
    let entries = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids.into_iter().take(MAX_PROCESSES) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let rest: Vec<&str> = stat.get(close + 2..).unwrap_or_default().split(' ').collect();
        let (Some(state), Some(parent), Some(pages)) = (rest.first(), rest.get(1), rest.get(21)) else { continue };
        let kb = pages.parse::<u64>().unwrap_or(0).saturating_mul(4);
        let _ = writeln!(text, "{pid} {parent} {state} {kb} {}", stat.get(open + 1..close).unwrap_or_default());
    }
    Ok(text)
}

/// Output of a program, bounded in time and size.
async fn program(name: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(name);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PROGRAM_LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{name} cannot be started: {error}")),
        Err(_) => return Err(format!("{name} took longer than {} s", PROGRAM_LIMIT.as_secs())),
    };
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(MAX_FACT_BYTES)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_gives_its_facts_and_no_command_lines() {
        let facts = facts(OffsetDateTime::now_utc()).await;
        let text = |name: &str| facts.iter().find(|fact| fact.name == name).and_then(|fact| fact.text.clone().ok()).unwrap_or_default();
        assert!(text("os-release.txt").contains("NAME="));
        assert!(text("uname.txt").starts_with("Linux "));
        assert!(text("meminfo.txt").contains("MemTotal"));
        assert!(text("time.txt").starts_with("clock 20"));
        let own = std::process::id();
        let line = text("processes.txt").lines().find(|line| line.starts_with(&format!("{own} "))).expect("this process").to_owned();
        assert_eq!(line.split(' ').count(), 5, "{line}");
        assert!(text("network-interfaces.txt").contains("lo"));
        assert!(free_share(Path::new("/")).is_some_and(|share| (0.0..=1.0).contains(&share)));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_reason_not_a_failure() {
        assert!(program("/nowhere/ip", &[]).await.expect_err("missing").contains("cannot be started"));
        assert!(program("false", &[]).await.expect_err("fails").contains("exit status"));
    }
}
