use std::collections::BTreeSet;
use std::io::Write as _;

use super::*;

fn load(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let mut on_disk = tempfile::Builder::new().prefix("muster").suffix(".toml").tempfile().expect("a file");
    on_disk.write_all(file.unwrap_or_default().as_bytes()).expect("written");
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    Settings::load_from(file.map(|_| on_disk.path()), owned(environment), &owned(flags))
}

fn refused(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(file, environment, flags).expect_err("must be refused").to_string()
}

#[test]
fn the_defaults_hold_and_warn_of_nothing() {
    let settings = load(None, &[], &[]).expect("the defaults are good");
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    assert!(settings.broker_is_embedded() && !settings.needs_token());
}

#[test]
fn every_setting_is_documented_and_every_member_has_a_default() {
    let mut commented = false;
    for line in DEFAULT_TOML.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(commented, "{line} has no comment above it");
        }
        commented = line.starts_with("# ") && line.len() > 10;
    }
    let settings = load(None, &[], &[]).expect("the defaults are good");
    let toml::Value::Table(sections) = toml::Value::try_from(&settings).expect("tables") else { panic!("not a table") };
    let members: BTreeSet<String> = flatten(&sections).into_iter().collect();
    let documented: BTreeSet<String> = known_keys().into_iter().collect();
    assert_eq!(members, documented);
    assert_eq!(documented.iter().filter_map(|key| key.split('.').next()).collect::<BTreeSet<_>>(), DEFAULT_SECTIONS.into());
}

#[test]
fn the_defaults_of_the_dispatcher_are_its_own() {
    let settings = load(None, &[], &[]).expect("the defaults are good");
    let own = muster_dispatch::DispatchOptions::default();
    let ours = &settings.dispatch;
    assert_eq!((ours.in_flight, ours.claim_batch, ours.apply_batch), (own.in_flight, own.claim_batch, own.apply_batch));
    assert_eq!((ours.reserve_percent, ours.confirm_above), (own.reserve_percent, 1000));
    assert_eq!((ours.flush_every.0, ours.scan_every.0, ours.grace.0), (own.flush_every, own.scan_every, own.grace));
    assert_eq!((ours.look_first.0, ours.look_max.0, ours.verify_lease.0), (own.look_first, own.look_max, own.verify_lease));
    assert_eq!((ours.verify_parallel, ours.open_parallel), (own.verify_parallel, own.open_parallel));
    assert_eq!((ours.full_read_limit_bytes, ours.max_bundle_bytes), (own.full_read_limit_bytes, own.max_bundle_bytes));
    assert_eq!(settings.schedule(), own.schedule);
}

#[test]
fn later_layers_win_and_are_named() {
    let file = "[dispatch]\nattempts = 4\nin_flight = 10\nexpiry = \"2h\"\n";
    let settings = load(
        Some(file),
        &[("MUSTER__DISPATCH__IN_FLIGHT", "20"), ("MUSTER__DISPATCH__EXPIRY", "3h"), ("PATH", "/x")],
        &[("dispatch.expiry", "4h")],
    )
    .expect("good settings");
    assert_eq!((settings.dispatch.attempts, settings.dispatch.in_flight, settings.dispatch.expiry.0.as_secs()), (4, 20, 4 * 3600));
    assert!(matches!(settings.source("dispatch.attempts"), Some(Source::File(_))));
    assert_eq!(settings.source("dispatch.in_flight"), Some(&Source::Environment("MUSTER__DISPATCH__IN_FLIGHT".to_owned())));
    assert_eq!(settings.source("dispatch.expiry"), Some(&Source::Flag));
    let shown = settings.effective();
    assert!(
        shown.contains("expiry = \"4h\" # a flag\n")
            && shown.contains("in_flight = 20 # environment variable MUSTER__DISPATCH__IN_FLIGHT\n"),
        "{shown}"
    );
    assert!(shown.contains("attempt_timeout = \"15m\"\n"), "{shown}");
}

#[test]
fn what_is_shown_can_be_read_again_and_holds_no_secret() {
    let secrets = [
        ("MUSTER__DATABASE__URL", "postgres://u:pa55word@h/d"),
        ("MUSTER__MQTT__PASSWORD", "pa55word-pa55word"),
        ("MUSTER__AMQP__URL", "amqps://u:pa55word@h/v"),
        ("MUSTER__LANDING__KEY", "pa55word"),
        ("MUSTER__AUTH__TOKENS", "ops=pa55word-pa55word,ci=pa55word-pa55word-2"),
    ];
    let settings = load(None, &secrets, &[]).expect("good settings");
    let shown = settings.effective();
    assert!(!shown.contains("pa55word") && shown.contains(secret::MASK), "{shown}");
    assert!(!format!("{settings:?}").contains("pa55word"));
    let again: toml::Table = shown.parse().expect("TOML");
    assert_eq!(flatten(&again).into_iter().collect::<BTreeSet<_>>(), known_keys().into_iter().collect());
    assert_eq!(settings.auth.tokens[1].name, "ci");
}

#[test]
fn unknown_keys_name_key_and_layer_and_the_nearest() {
    let text = refused(Some("[dispatch]\nattemps = 4\n"), &[], &[]);
    assert!(text.contains("unknown setting dispatch.attemps in ") && text.contains(".toml; did you mean dispatch.attempts?"), "{text}");
    assert!(refused(Some("listen = 4\n"), &[], &[]).contains("unknown setting listen in "));
    assert!(refused(Some("[amqps]\nurl = \"x\"\n"), &[], &[]).contains("unknown setting amqps.url in "));
    let text = refused(None, &[("MUSTER__SERVR__LISTEN", "x")], &[]);
    assert_eq!(text, "unknown setting servr.listen in environment variable MUSTER__SERVR__LISTEN; did you mean server.listen?");
    assert_eq!(refused(None, &[], &[("zzz", "x")]), "unknown setting zzz in a flag");
    assert!(refused(Some("[[auth.tokens]]\nname = \"a\"\ntokn = \"x\"\n"), &[], &[]).contains("tokn"));
}

#[test]
fn wrong_values_name_key_and_layer() {
    let text = refused(None, &[("MUSTER__DISPATCH__IN_FLIGHT", "many")], &[]);
    assert!(text.starts_with("setting dispatch.in_flight in environment variable MUSTER__DISPATCH__IN_FLIGHT: "), "{text}");
    let text = refused(None, &[], &[("dispatch.expiry", "tomorrow")]);
    assert!(text.starts_with("setting dispatch.expiry in a flag: \"tomorrow\" is not a duration"), "{text}");
    let text = refused(Some("[landing]\nkind = \"s3\"\n"), &[], &[]);
    assert!(text.contains("landing.kind") && text.contains("directory"), "{text}");
    let text = refused(Some("[database]\nurl = 42\n[mqtt]\npassword = [\"hunter2\"]\n"), &[], &[]);
    assert!(!text.contains("hunter2"), "{text}");
    assert!(refused(Some("[dispatch\n"), &[], &[]).contains("is not valid TOML"));
    assert!(refused(Some("dispatch = 4\n"), &[], &[]).contains("dispatch"));
}

#[test]
fn a_file_that_is_no_settings_file_is_refused_by_name() {
    let large = format!("# {}\n", "x".repeat(MAX_FILE_BYTES as usize));
    assert!(refused(Some(&large), &[], &[]).contains(".toml is larger than 1048576 bytes"));
    let fits = format!("# {}\n", "x".repeat(MAX_FILE_BYTES as usize - 3));
    assert!(load(Some(&fits), &[], &[]).is_ok());
    let missing = Settings::load_from(Some(Path::new("/nowhere/muster.toml")), [], &[]).expect_err("missing").to_string();
    assert_eq!(missing, "cannot read the settings file /nowhere/muster.toml");
}

#[test]
fn secrets_come_from_files_and_never_from_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token").display().to_string();
    std::fs::write(&path, "0123456789abcdef\n").expect("written");
    let file = format!("[auth]\ntokens = [{{ name = \"ops\", token_file = \"{path}\" }}]\n[mqtt]\npassword_file = \"{path}\"\n");
    let settings = load(Some(&file), &[], &[]).expect("good settings");
    assert_eq!(settings.auth.tokens[0].token.expose(), "0123456789abcdef");
    assert_eq!(settings.mqtt.password.expose(), "0123456789abcdef");
    assert!(refused(None, &[], &[("mqtt.password_file", &path), ("mqtt.password", "x")]).contains("mqtt.password is set as well"));
    assert!(
        refused(None, &[], &[("database.url_file", "/nowhere/url")])
            .contains("setting database.url_file in a flag: cannot read /nowhere/url")
    );
}

#[test]
fn unsafe_pairs_are_refused_with_the_next_step() {
    let text = refused(None, &[], &[("server.listen", "0.0.0.0:7300")]);
    assert!(
        text.contains("no token is configured") && text.contains("\nNext: configure a token, for example MUSTER__AUTH__TOKENS="),
        "{text}"
    );
    assert!(load(None, &[], &[("server.listen", "0.0.0.0:7300"), ("auth.tokens", "ops=0123456789abcdef")]).is_ok());
    assert!(refused(None, &[], &[("mqtt.embedded_listen", "0.0.0.0:1883")]).contains("anybody could pose as any device"));
    assert!(refused(None, &[], &[("mqtt.embedded_anonymous", "false")]).contains("mqtt.embedded_device_key"));
    assert!(load(None, &[], &[("mqtt.embedded_anonymous", "false"), ("mqtt.embedded_device_key", "0123456789abcdef")]).is_ok());
    assert!(refused(None, &[], &[("mqtt.password", "fifteen-letters")]).contains("at least 16 characters with the embedded broker"));
    assert!(load(None, &[], &[("mqtt.password", "sixteen-letters!")]).is_ok());
    assert!(load(None, &[], &[("mqtt.password", "x"), ("mqtt.url", "mqtt://localhost")]).is_ok(), "another broker has its own rules");
    assert!(refused(None, &[], &[("dispatch.attempt_timeout", "2h"), ("dispatch.expiry", "1h")]).contains("longer than dispatch.expiry"));
    assert!(refused(None, &[], &[("database.url", "sqlite::memory:")]).contains("in memory"));
    assert!(refused(None, &[], &[("database.url", "mysql://x")]).contains("begins neither with"));
    assert!(refused(None, &[], &[("auth.tokens", "ops=short")]).contains("at least 16"));
    assert!(refused(None, &[], &[("auth.tokens", "ops=0123456789abcdef,ops=0123456789abcdeg")]).contains("twice"));
    assert!(refused(None, &[], &[("auth.tokens", "0123456789abcdef")]).contains("needs a name"));
    assert!(refused(None, &[], &[("landing.kind", "azure")]).contains("landing.account"));
    assert!(refused(None, &[], &[("landing.kind", "azure"), ("landing.account", "a")]).contains("landing.key"));
    assert!(refused(None, &[], &[("mqtt.url", "tcp://h:1")]).contains("mqtts://host:port"));
    assert!(refused(None, &[], &[("mqtt.url", "mqtt://u:p@h:1")]).contains("must not hold a user name"));
    assert!(refused(None, &[], &[("mqtt.prefix", "a/b/c")]).contains("mqtt.prefix"));
    let text = refused(None, &[], &[("amqp.url", "http://u:pa55word@h")]);
    assert!(text.contains("amqp://user:password@host") && !text.contains("pa55word"), "{text}");
    assert!(refused(None, &[], &[("amqp.url", "amqp://h/v"), ("amqp.ca_file", "/x.pem")]).contains("use amqps://"));
    assert!(refused(None, &[], &[("telemetry.log", "loud=very=loud")]).contains("telemetry.log"));
}

#[test]
fn every_bound_holds_at_its_edge() {
    for (key, good, bad) in [
        ("dispatch.attempts", "50", "51"),
        ("dispatch.attempts", "1", "0"),
        ("dispatch.in_flight", "200000", "200001"),
        ("dispatch.reserve_percent", "40", "41"),
        ("dispatch.claim_batch", "10000", "10001"),
        ("dispatch.apply_batch", "1", "0"),
        ("dispatch.verify_parallel", "1024", "1025"),
        ("dispatch.open_parallel", "1", "0"),
        ("dispatch.attempt_timeout", "24h", "25h"),
        ("dispatch.answer_timeout", "2s", "1s"),
        ("dispatch.answer_timeout", "15m", "16m"),
        ("dispatch.expiry", "90d", "91d"),
        ("dispatch.flush_every", "1s", "1001ms"),
        ("dispatch.scan_every", "10ms", "9ms"),
        ("dispatch.backoff_factor", "1", "0.5"),
        ("retention.attempts", "1d", "23h"),
        ("retention.attempts", "3650d", "3651d"),
        ("retention.attempts", "0", "1s"),
        ("server.stop_timeout", "10m", "601s"),
        ("mqtt.embedded_connections", "1", "0"),
        ("amqp.prefetch", "10000", "10001"),
        ("amqp.prefetch", "1", "0"),
        ("amqp.delivery_limit", "10000", "10001"),
        ("amqp.delivery_limit", "1", "0"),
        ("amqp.queue", &"q".repeat(255), &"q".repeat(256)),
        ("amqp.dead_letter_exchange", "x", "amq.x"),
        ("amqp.dead_letter_queue", "x", "muster.alerts"),
        ("amqp.bare", "azure-monitor", "azure monitor"),
        ("amqp.url", "amqps://h/v", "http://h/v"),
        ("intake.types", "a,b", ","),
        ("intake.types", &"a,".repeat(100), &"a,".repeat(101)),
        ("intake.bare", &"x".repeat(1024), &"x".repeat(1025)),
        ("intake.max_age", "1m", "59s"),
        ("intake.max_age", "31d", "32d"),
        ("intake.expires_after", "90d", "91d"),
        ("intake.per_day", "1000000", "1000001"),
        ("intake.per_tenant_per_day", "0", "1000001"),
        ("intake.storm_devices", "2", "1"),
        ("intake.storm_within", "1s", "999ms"),
        ("intake.storm_per_stratum", "1", "0"),
        ("intake.storm_at_most", "1", "0"),
    ] {
        assert!(load(None, &[], &[(key, good)]).is_ok(), "{key} = {good}");
        let text = refused(None, &[], &[(key, bad)]);
        assert!(text.starts_with("setting dispatch.") || text.contains(key), "{key} = {bad}: {text}");
    }
}

#[test]
fn risky_pairs_are_warned_about() {
    let warned = |flags: &[(&str, &str)]| load(None, &[], flags).expect("allowed").warnings().join("\n");
    assert!(warned(&[("server.public_url", "http://muster.example.com")]).contains("without TLS"));
    assert_eq!(warned(&[("server.public_url", "http://localhost:7300")]), "");
    assert_eq!(warned(&[("server.public_url", "http://[::1]:7300")]), "");
    assert_eq!(warned(&[("server.public_url", "https://muster.example.com")]), "");
    assert!(warned(&[("server.listen", "0.0.0.0:1"), ("auth.tokens", "ops=0123456789abcdef")]).contains("Set server.public_url"));
    assert!(warned(&[("amqp.url", "amqp://u:p@rabbit/v")]).contains("Use amqps"));
    assert_eq!(warned(&[("amqp.url", "amqp://guest:guest@127.0.0.1:5672/%2f")]), "");
    assert!(warned(&[("mqtt.url", "mqtt://broker:1883"), ("mqtt.password", "x")]).contains("Use mqtts"));
    assert!(warned(&[("dispatch.max_bundle_bytes", "1000")]).contains("read whole"));
}
