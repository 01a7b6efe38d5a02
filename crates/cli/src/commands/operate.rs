//! `muster migrate|check-config|doctor|openapi`: for who runs a controller.

use std::path::PathBuf;

use clap::Args;
use muster_controller::doctor::Check;
use muster_controller::{Settings, SettingsError};

use crate::failure::{Failure, exit, why_and_next};
use crate::present::{Column, Form, Out, table};
use crate::progress;

const MIGRATE_EXAMPLES: &str = "\
Examples:
  muster migrate
  muster migrate --config /etc/muster/muster.toml
  muster migrate --set database.url=postgres:///muster";
const CHECK_EXAMPLES: &str = "\
Examples:
  muster check-config
  muster check-config --config /etc/muster/muster.toml
  muster check-config --set dispatch.attempts=5 > effective.toml";
const DOCTOR_EXAMPLES: &str = "\
Examples:
  muster doctor
  muster doctor --config /etc/muster/muster.toml
  muster doctor -o json | jq '.[] | select(.ok | not)'";
const OPENAPI_EXAMPLES: &str = "\
Examples:
  muster openapi > openapi.json";

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Settings file; muster.toml in the current directory when it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, as section.key=value; repeatable; wins over the file and the environment
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').map(|(key, value)| (key.trim(), value));
    match parts {
        Some((key, value)) if key.split('.').filter(|part| !part.is_empty()).count() >= 2 => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a setting is written section.key=value, like server.listen=127.0.0.1:7300".to_owned()),
    }
}

impl SettingsArgs {
    /// Reads every layer, `more` on top, and prints what is risky.
    pub(crate) fn load(&self, more: Vec<(String, String)>, out: &Out) -> Result<Settings, Failure> {
        // Flags of their own are more deliberate than --set.
        let overrides: Vec<(String, String)> = self.set.iter().cloned().chain(more).collect();
        let settings = Settings::load(self.config.as_deref(), &overrides).map_err(|error| unusable(&error))?;
        for warning in settings.warnings() {
            out.note(&format!("warning: {warning}"));
        }
        Ok(settings)
    }
}

/// Settings that cannot be used are the user's to change.
pub(crate) fn unusable(error: &SettingsError) -> Failure {
    let (why, next) = why_and_next(error);
    Failure::Usage { what: "the settings cannot be used".to_owned(), why, next }
        .or_next("muster check-config prints every setting there is, with its value")
}

/// Bring the database to the schema of this version
#[derive(Debug, Args)]
#[command(after_long_help = MIGRATE_EXAMPLES)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Check the settings and print them as they are in force, secrets masked
#[derive(Debug, Args)]
#[command(after_long_help = CHECK_EXAMPLES)]
pub(crate) struct CheckConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Try everything a controller needs: database, broker, landing zone, limits
#[derive(Debug, Args)]
#[command(after_long_help = DOCTOR_EXAMPLES)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Print the description of the HTTP API
#[derive(Debug, Args)]
#[command(after_long_help = OPENAPI_EXAMPLES)]
pub(crate) struct OpenapiArgs {}

pub(crate) async fn migrate(args: MigrateArgs, out: &mut Out) -> Result<u8, Failure> {
    let settings = args.settings.load(Vec::new(), out)?;
    let applied = progress::waiting("migrating", Box::pin(muster_controller::migrate(&settings))).await.map_err(|error| {
        Failure::local_error("migrate the database", &error).or_next("muster doctor tries the database and says what is wrong")
    })?;
    for step in &applied {
        out.text(&format!("applied {step}\n"))?;
    }
    out.text(if applied.is_empty() {
        "the database has the schema of this version already\n"
    } else {
        "the database has the schema of this version\n"
    })?;
    Ok(exit::DONE)
}

pub(crate) fn check_config(args: CheckConfigArgs, out: &mut Out) -> Result<u8, Failure> {
    let settings = args.settings.load(Vec::new(), out)?;
    out.text(&settings.effective())?;
    Ok(exit::DONE)
}

pub(crate) async fn doctor(args: DoctorArgs, out: &mut Out) -> Result<u8, Failure> {
    let settings = args.settings.load(Vec::new(), out)?;
    let checks = progress::waiting("trying", Box::pin(muster_controller::doctor::run(&settings))).await;
    report(&checks, out)?;
    Ok(if checks.iter().all(|check| check.ok) { exit::DONE } else { exit::SOME_NOT })
}

fn report(checks: &[Check], out: &mut Out) -> Result<(), Failure> {
    let plain_values = || {
        checks
            .iter()
            .map(|check| serde_json::json!({ "name": check.name, "ok": check.ok, "detail": check.detail, "next_step": check.next_step }))
    };
    match out.form() {
        Form::Table => {
            let rows: Vec<Vec<String>> = checks
                .iter()
                .map(|check| vec![if check.ok { "ok" } else { "failed" }.to_owned(), check.name.to_string(), check.detail.clone()])
                .collect();
            let mut text = table(&[Column::text("RESULT"), Column::id("CHECK"), Column::text("DETAIL")], &rows, out);
            for check in checks {
                if let Some(step) = &check.next_step {
                    text.push_str(&format!("\n{}: {step}", check.name));
                }
            }
            if !text.ends_with('\n') {
                text.push('\n');
            }
            out.text(&text)
        }
        Form::Json => out.json(&plain_values().collect::<Vec<_>>()),
        Form::Ndjson => plain_values().try_for_each(|check| out.json(&check)),
        Form::Name => checks.iter().filter(|check| !check.ok).try_for_each(|check| out.text(&format!("{}\n", check.name))),
    }
}

pub(crate) fn openapi(out: &mut Out) -> Result<u8, Failure> {
    let mut text = muster_controller::openapi_json();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    out.text(&text)?;
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_key_and_value() {
        assert_eq!(parse_setting("server.listen=[::1]:0"), Ok(("server.listen".into(), "[::1]:0".into())));
        assert_eq!(parse_setting("mqtt.password=a=b"), Ok(("mqtt.password".into(), "a=b".into())));
        for wrong in ["server.listen", "listen=x", "=x", ".listen=x", "server.=x"] {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
    }
}
