//! What simulated devices have: modules, log lines, and a bundle in the layout of IoT Edge. All of it follows from the seed,
//! the device's place in the fleet and its clock, and costs little: long logs are cut from one text that is made once.

use std::io::{Seek, Write};

use muster_wire::method::frames::Stream;
use muster_wire::method::{MethodError, since};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use time::OffsetDateTime;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::bundle::{BundleError, Window};
use crate::device::Device;
use crate::modules::{Kind, LogLine, Module};

/// The modules every simulated device has.
pub(crate) const MODULES: &[&str] = &["edgeAgent", "edgeHub", "tempSensor"];
/// System journals in a bundle.
const UNITS: &[&str] = &["aziot-keyd", "aziot-certd", "aziot-identityd", "aziot-edged", "docker"];
/// Length of the text that long logs are cut from.
const TEXT_BYTES: usize = 1024 * 1024;
/// Time between two lines.
const LINE_SECONDS: i64 = 15;
const SITES: &[&str] = &["oslo", "bergen", "trondheim", "turku"];
const FIRMWARE: &[&str] = &["1.4.1", "1.4.2", "1.4.3"];
const MODELS: &[&str] = &["press-200", "press-300"];
const WORDS: &[&str] = &[
    "connected to upstream",
    "message batch delivered",
    "reconciling twin",
    "module is running",
    "retrying in 5 s",
    "temperature 21.4",
    "temperature 22.0",
    "checkpoint written",
    "store opened",
    "heartbeat",
    "certificate renewed",
    "queue drained",
];

/// What is synthetic about a fleet.
#[derive(Debug)]
pub(crate) struct Synthetic {
    seed: u64,
    log_lines: usize,
    bundle_bytes: usize,
    text: Vec<u8>,
}

fn mix(seed: u64, a: u64, b: u64) -> u64 {
    // SplitMix64: neighbours in, strangers out.
    let mut x = seed ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn line(rng: &mut SmallRng, at: OffsetDateTime, out: &mut Vec<u8>) {
    let (level, word) = match rng.random_range(0..100) {
        0..3 => (3, "ERR"),
        3..10 => (4, "WRN"),
        _ => (6, "INF"),
    };
    let what = WORDS[rng.random_range(0..WORDS.len())];
    let _ = writeln!(
        out,
        "<{level}> {:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03} +00:00 [{word}] - {what} ({:08x})",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond(),
        rng.random::<u32>()
    );
}

impl Synthetic {
    pub(crate) fn new(seed: u64, log_lines: usize, bundle_kb: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(mix(seed, 1, 2));
        let mut text = Vec::with_capacity(TEXT_BYTES + 200);
        let mut at = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        while text.len() < TEXT_BYTES {
            line(&mut rng, at, &mut text);
            at += time::Duration::milliseconds(rng.random_range(100..5000));
        }
        Self { seed, log_lines, bundle_bytes: bundle_kb * 1024, text }
    }

    pub(crate) fn modules(&self) -> Vec<Module> {
        MODULES.iter().map(|name| Module { name: (*name).to_owned(), kind: Kind::Container { id: (*name).to_owned() } }).collect()
    }

    /// Reported properties: something for conditions to choose by.
    pub(crate) fn reported(&self, ordinal: u32) -> serde_json::Value {
        let n = mix(self.seed, ordinal.into(), 7) as usize;
        serde_json::json!({ "site": SITES[n % SITES.len()], "firmware": FIRMWARE[n / 7 % FIRMWARE.len()], "model": MODELS[n / 31 % MODELS.len()], "simulated": true })
    }

    /// The lines of a module: one every 15 seconds, up to now by the device's clock.
    pub(crate) fn lines(&self, device: &Device, module: &str) -> Vec<LogLine> {
        let mut rng =
            SmallRng::seed_from_u64(mix(self.seed, device.ordinal.into(), module.len() as u64 * 31 + u64::from(module.as_bytes()[0])));
        let now = device.clock();
        (0..self.log_lines)
            .map(|n| {
                let back = i64::try_from(self.log_lines - 1 - n).unwrap_or(0) * LINE_SECONDS;
                let at = now - time::Duration::seconds(back);
                let mut payload = Vec::with_capacity(96);
                line(&mut rng, at, &mut payload);
                let stream = if payload[1] == b'3' { Stream::Stderr } else { Stream::Stdout };
                LogLine { stream, received_unix_nanos: i64::try_from(at.unix_timestamp_nanos()).unwrap_or(0), payload }
            })
            .collect()
    }

    /// A support bundle as IoT Edge lays it out, about as large as asked for.
    pub(crate) fn bundle<W: Write + Seek>(&self, device: &Device, window: &Window, out: W) -> Result<W, BundleError> {
        for (name, bound) in [("since", &window.since), ("until", &window.until)] {
            if let Some(bound) = bound {
                since::parse(bound, window.asked_unix).map_err(|error| MethodError::bad_request(format!("{name}: {error}")))?;
            }
        }
        let id = device.id().as_str();
        let number = mix(self.seed, device.ordinal.into(), 11);
        let mut zip = ZipWriter::new(out);
        let packed = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).compression_level(Some(1));
        // Long logs are stored: the size is then the size that was asked for, and nothing is deflated a thousand times over.
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);

        let check = serde_json::json!({
            "additional_info": { "now": device.clock().unix_timestamp(), "os": "synthetic", "iotedged_version": "1.5.0", "device": id },
            "checks": {
                "config-yaml-well-formed": { "result": "ok" },
                "connectivity-check": { "result": "ok" },
                "host-local-time": { "result": "ok", "details": [number] },
                "storage-mounted-from-host": { "result": "warning", "details": ["edgeHub's storage directory is not persisted on the host"] },
            }
        });
        zip.start_file("check.json", packed)?;
        zip.write_all(check.to_string().as_bytes())?;
        let modules: Vec<&str> = MODULES.iter().copied().filter(|m| !window.edge_runtime_only || *m != "tempSensor").collect();
        for module in &modules {
            zip.start_file(format!("inspect/{module}.json"), packed)?;
            let inspect = serde_json::json!([{ "Id": format!("{number:016x}"), "Name": format!("/{module}"), "State": { "Status": "running" }, "Config": { "Env": ["IOTEDGE_DEVICEID=".to_owned() + id] } }]);
            zip.write_all(inspect.to_string().as_bytes())?;
        }
        for network in ["azure-iot-edge", "bridge"] {
            zip.start_file(format!("network/{network}.json"), packed)?;
            zip.write_all(serde_json::json!([{ "Name": network, "Driver": "bridge" }]).to_string().as_bytes())?;
        }
        let texts = modules.len() + UNITS.len();
        let share = self.bundle_bytes.saturating_sub(4096) / texts.max(1);
        let names = modules.iter().map(|m| format!("logs/{m}_log.txt")).chain(UNITS.iter().map(|u| format!("logs/{u}.txt")));
        for (n, name) in names.enumerate() {
            zip.start_file(&name, stored)?;
            zip.write_all(format!("# {name} of {id}, {number:016x}\n").as_bytes())?;
            self.fill(mix(number, n as u64, 3), share, &mut zip)?;
        }
        Ok(zip.finish()?)
    }

    /// So many bytes of log text, from a place that differs per device and log, ending with a whole line.
    fn fill(&self, place: u64, bytes: usize, out: &mut impl Write) -> std::io::Result<()> {
        let start = usize::try_from(place).unwrap_or(0) % self.text.len();
        let start = self.text[start..].iter().position(|&b| b == b'\n').map_or(0, |at| start + at + 1);
        let mut left = bytes;
        let mut from = start;
        while left > 0 {
            let piece = &self.text[from..self.text.len().min(from + left)];
            out.write_all(piece)?;
            left -= piece.len();
            from = 0;
        }
        if bytes > 0 { out.write_all(b"\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_differ_and_the_seed_decides() {
        let a = Synthetic::new(1, 10, 64);
        let b = Synthetic::new(1, 10, 64);
        let c = Synthetic::new(2, 10, 64);
        assert_eq!(a.text, b.text);
        assert_ne!(a.text, c.text);
        let sites: std::collections::HashSet<String> = (0..50).map(|n| a.reported(n).to_string()).collect();
        assert!(sites.len() > 5, "conditions have something to choose by");
        assert_eq!(a.reported(3), b.reported(3));
    }

    #[test]
    fn filling_gives_as_much_as_asked() {
        let synthetic = Synthetic::new(1, 10, 64);
        for bytes in [0, 1, 1000, TEXT_BYTES * 2 + 5] {
            let mut out = Vec::new();
            synthetic.fill(u64::MAX, bytes, &mut out).expect("memory");
            assert_eq!(out.len(), if bytes == 0 { 0 } else { bytes + 1 });
        }
    }
}
