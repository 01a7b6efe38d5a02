//! `muster consent …`: who agreed to collection that nobody asked for.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use muster_wire::DeviceId;
use muster_wire::http::{
    Actor, Channel, ConsentAuditLine, ConsentKind, ConsentRecord, ConsentScope, ConsentState, ConsentView, DecisionRecorded,
    MAX_TERMS_CHARS, NewDecision, NewTerms, Role, Standing, TermsDefault, TermsView,
};

use crate::client::{Client, Query};
use crate::commands::collections::{ListArgs, list};
use crate::failure::{Failure, exit};
use crate::moment::parse_span;
use crate::present::units::{count, relative, rfc3339_seconds};
use crate::present::{Out, Sheet, one_line};

const EXAMPLES: &str = "\
Examples:
  muster consent show press-0042
  muster consent grant --device press-0042 --on-behalf-of ada --role device-owner --channel portal
  muster consent revoke --tenant contoso --on-behalf-of ada --role tenant-owner --channel paper
  muster consent list --state suspended";
const SHOW_EXAMPLES: &str = "\
Of a device: what its own decision, its site's and its tenant's come to together with its own word. A refusal at any level wins, \
and the device's word wins over the record.

Examples:
  muster consent show press-0042
  muster consent show --site oslo --tenant contoso
  muster consent show press-0042 -o json | jq .history";
const GRANT_EXAMPLES: &str = "\
The vendor decides nothing: what is recorded here is what a customer decided, so it names the customer, the role and the channel. \
Without --on-behalf-of the try is refused and put on record.

Examples:
  muster consent grant --device press-0042 --on-behalf-of ada --role device-owner --channel portal
  muster consent grant --tenant contoso --on-behalf-of ada --role tenant-owner --channel paper";
const REVOKE_EXAMPLES: &str = "\
From this moment no device of the scope is asked. What is queued or under way is cancelled, its grants are closed, and what was \
uploaded of it is removed within minutes. What was sealed before stays.

Examples:
  muster consent revoke --device press-0042 --on-behalf-of ada --role device-owner --channel api
  muster consent revoke --tenant contoso --on-behalf-of ada --role tenant-owner --channel paper";
const LIST_EXAMPLES: &str = "\
Examples:
  muster consent list
  muster consent list --tenant contoso --state granted -o name";
const AUDIT_EXAMPLES: &str = "\
Examples:
  muster consent audit
  muster consent audit -o ndjson | jq 'select(.what == \"object_removed\")'";
const TERMS_EXAMPLES: &str = "\
Examples:
  muster consent terms list
  muster consent terms show 2026-11-28
  muster consent terms publish 2027-01-01 --locale en-GB --file terms.txt --material";
const TERMS_LIST_EXAMPLES: &str = "\
Examples:
  muster consent terms list";
const TERMS_SHOW_EXAMPLES: &str = "\
Examples:
  muster consent terms show 2026-11-28
  muster consent terms show 2026-11-28 --locale en-GB -o json | jq -r .sha256";
const PUBLISH_EXAMPLES: &str = "\
A published text never changes. A new version is the current one at once; with --material all grants to earlier ones are \
suspended until their owners agree again.

Examples:
  muster consent terms publish 2027-01-01 --locale en-GB --file terms.txt
  muster consent terms publish 2027-01-01 --locale nb-NO --file vilkar.txt --silence-is default-on";

/// Who agreed to collection that nobody asked for
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct ConsentArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Where consent stands: who decided, when, by which channel, to which terms
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Record that a customer agreed
    #[command(after_long_help = GRANT_EXAMPLES)]
    Grant(GrantArgs),
    /// Record that a customer refused or withdrew
    #[command(after_long_help = REVOKE_EXAMPLES)]
    Revoke(DecisionArgs),
    /// List the last decision of each device, site and tenant
    #[command(after_long_help = LIST_EXAMPLES)]
    List(ListDecisionsArgs),
    /// What was refused, and what was removed when a consent ended
    #[command(after_long_help = AUDIT_EXAMPLES)]
    Audit(ListArgs),
    /// The texts that are agreed to
    #[command(after_long_help = TERMS_EXAMPLES, arg_required_else_help = true)]
    Terms(TermsArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("shown").args(["device", "tenant"]).required(true))]
struct ShowArgs {
    /// Device
    #[arg(value_name = "DEVICE", conflicts_with_all = ["site", "tenant"])]
    device: Option<DeviceId>,
    /// Site; needs its tenant
    #[arg(long, value_name = "SITE", requires = "tenant")]
    site: Option<String>,
    /// Tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("scope").args(["device", "tenant"]).required(true))]
struct DecisionArgs {
    /// Device it is about
    #[arg(long, value_name = "ID", conflicts_with_all = ["site", "tenant"])]
    device: Option<DeviceId>,
    /// Site it is about; needs its tenant
    #[arg(long, value_name = "SITE", requires = "tenant")]
    site: Option<String>,
    /// Tenant it is about
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The customer who decided
    #[arg(long, value_name = "WHO", requires = "role", requires = "channel")]
    on_behalf_of: Option<String>,
    /// In which role
    #[arg(long, value_enum, value_name = "ROLE", requires = "on_behalf_of")]
    role: Option<CustomerRole>,
    /// How the customer told us
    #[arg(long, value_enum, value_name = "CHANNEL", requires = "on_behalf_of")]
    channel: Option<Told>,
    /// How the channel made sure who it was, like mfa or signature
    #[arg(long, value_name = "HOW", requires = "on_behalf_of")]
    auth: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Record it only if this is still the number of the last decision; 0 for none
    #[arg(long, value_name = "N")]
    expect_version: Option<u32>,
}

#[derive(Debug, Args)]
struct GrantArgs {
    #[command(flatten)]
    decision: DecisionArgs,
    /// Version of the terms that was shown (default: the current one)
    #[arg(long, value_name = "VERSION")]
    terms: Option<String>,
    /// Language in which they were shown
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
    /// Runs out after this time, like 90d
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    expires_in: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "they are typed as they stand in a record")]
enum CustomerRole {
    /// Decides for a device
    DeviceOwner,
    /// Decides for a site and its devices
    SiteOwner,
    /// Decides for all of a tenant
    TenantOwner,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Told {
    /// In the customer's portal
    Portal,
    /// By the customer's own program
    Api,
    /// On paper, signed
    Paper,
}

#[derive(Debug, Args)]
struct ListDecisionsArgs {
    /// Only of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those that stand like this: granted, declined, revoked, expired, suspended
    #[arg(long, value_name = "STATE")]
    state: Option<ConsentState>,
    /// Only decisions for these
    #[arg(long, value_enum, value_name = "SCOPE")]
    scope: Option<ScopeType>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeType {
    /// Single devices
    Device,
    /// Sites
    Site,
    /// Tenants
    Tenant,
}

#[derive(Debug, Args)]
struct TermsArgs {
    #[command(subcommand)]
    what: TermsWhat,
}

#[derive(Debug, Subcommand)]
enum TermsWhat {
    /// List what is published, the current version first
    #[command(after_long_help = TERMS_LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one version with its text
    #[command(after_long_help = TERMS_SHOW_EXAMPLES)]
    Show(TermsShowArgs),
    /// Publish a text
    #[command(after_long_help = PUBLISH_EXAMPLES)]
    Publish(PublishArgs),
}

#[derive(Debug, Args)]
struct TermsShowArgs {
    /// Version
    #[arg(value_name = "VERSION")]
    version: String,
    /// Language; any when absent
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
}

#[derive(Debug, Args)]
struct PublishArgs {
    /// Version
    #[arg(value_name = "VERSION")]
    version: String,
    /// Language of the text
    #[arg(long, value_name = "LOCALE")]
    locale: String,
    /// File with the text; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// What it means when nobody says anything
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Silence::OptIn)]
    silence_is: Silence,
    /// Everybody is asked again: grants to earlier versions are suspended
    #[arg(long)]
    material: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Silence {
    /// No
    OptIn,
    /// Yes, until somebody says no
    DefaultOn,
}

pub(crate) async fn run(args: ConsentArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::Show(args) => show(args, client, out).await,
        What::Grant(args) => {
            let mut new = decision(args.decision)?;
            new.terms_version = args.terms;
            new.locale = args.locale;
            new.expires_at = args.expires_in.map(|span| out.now() + span);
            decide("grant", &new, client, out).await
        }
        What::Revoke(args) => decide("revoke", &decision(args)?, client, out).await,
        What::List(args) => {
            let mut query = Query::new();
            query.extend(args.tenant.map(|tenant| ("tenant", tenant)));
            query.extend(args.state.map(|state| ("state", state.to_string())));
            query.extend(args.scope.map(|scope| ("scope_type", format!("{scope:?}").to_lowercase())));
            list::<Standing>(client, out, "list the decisions", &["consent"], &query, args.list).await
        }
        What::Audit(args) => list::<ConsentAuditLine>(client, out, "read the audit", &["consent", "audit"], &Query::new(), args).await,
        What::Terms(args) => terms(args.what, client, out).await,
    }
}

/// The group of the arguments makes sure that there is one of them.
fn scope(device: Option<DeviceId>, site: Option<String>, tenant: Option<String>) -> Result<ConsentScope, Failure> {
    match (device, site, tenant) {
        (Some(id), ..) => Ok(ConsentScope::Device { id }),
        (None, Some(id), Some(tenant)) => Ok(ConsentScope::Site { id, tenant }),
        (None, None, Some(id)) => Ok(ConsentScope::Tenant { id }),
        _ => Err(Failure::usage("the scope", "name a device, or a tenant, or a site with its tenant")),
    }
}

async fn show(args: ShowArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let scope = scope(args.device, args.site, args.tenant)?;
    let mut query = Query::new();
    match &scope {
        ConsentScope::Device { id } => query.push(("device", id.to_string())),
        ConsentScope::Site { id, tenant } => query.extend([("site", id.clone()), ("tenant", tenant.clone())]),
        ConsentScope::Tenant { id } => query.push(("tenant", id.clone())),
    }
    let view: ConsentView = client.get("show the consent", &["consent", "effective"], &query).await?;
    out.one(&view, view.state.as_str(), |out| sheet(&view, out))?;
    Ok(exit::DONE)
}

fn decision(args: DecisionArgs) -> Result<NewDecision, Failure> {
    let role = args.role.map(|role| match role {
        CustomerRole::DeviceOwner => Role::DeviceOwner,
        CustomerRole::SiteOwner => Role::SiteOwner,
        CustomerRole::TenantOwner => Role::TenantOwner,
    });
    let channel = args.channel.map(|channel| match channel {
        Told::Portal => Channel::Portal,
        Told::Api => Channel::Api,
        Told::Paper => Channel::Paper,
    });
    Ok(NewDecision {
        kind: ConsentKind::Proactive,
        scope: scope(args.device, args.site, args.tenant)?,
        on_behalf_of: args.on_behalf_of.zip(role).map(|(id, role)| Actor { id, role, auth: args.auth }),
        channel,
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: args.reason,
        expect_version: args.expect_version,
    })
}

async fn decide(verb: &str, new: &NewDecision, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let made: DecisionRecorded = client.post(&format!("{verb} consent"), &["consent", verb], new, None).await?;
    let id = made.record.consent_id.to_string();
    out.one(&made, &id, |out| {
        let sheet = of_record(Sheet::default().line("scope", made.record.scope.to_string()), &made.record, out);
        sheet.maybe("cancelled", (made.cancelled > 0).then(|| format!("{} tasks", count(made.cancelled))))
    })?;
    Ok(exit::DONE)
}

/// Who decided, when, by which channel, to which terms.
fn of_record(sheet: Sheet, record: &ConsentRecord, out: &Out) -> Sheet {
    let auth = record.actor.auth.as_ref().map(|auth| format!(", {auth}")).unwrap_or_default();
    let terms = record.terms.as_ref().map(|terms| format!("{} {} ({}), sha256 {}", terms.id, terms.version, terms.locale, terms.sha256));
    sheet
        .line("decision", format!("{} (number {}, {})", record.decision, record.version, record.basis.as_str().replace('_', " ")))
        .line("consent", record.consent_id.to_string())
        .line("by", format!("{} as {}{auth}", record.actor.id, record.actor.role))
        .line("channel", format!("{}, written down by {}", record.channel.as_str().replace('_', " "), record.recorded_by))
        .line("at", format!("{} ({})", rfc3339_seconds(record.decided_at), relative(record.decided_at, out.now())))
        .maybe("terms", terms)
        .maybe("until", record.expires_at.map(rfc3339_seconds))
        .maybe("reason", record.reason.clone())
}

fn sheet(view: &ConsentView, out: &Out) -> Sheet {
    let device = view.device_says.as_ref().map(|says| {
        let heard = says.heard_at.map_or_else(|| "never heard".to_owned(), |at| format!("heard {}", relative(at, out.now())));
        format!("{} ({heard})", says.flag)
    });
    let mut sheet = Sheet::default()
        .line("scope", view.scope.to_string())
        .line("state", view.state.as_str())
        .line("because", view.why.clone())
        .maybe("tenant", view.tenant.clone().filter(|_| matches!(view.scope, ConsentScope::Device { .. })))
        .maybe("site", view.site.clone())
        .maybe("device says", device);
    let in_force = view
        .consent
        .and_then(|id| view.standings.iter().filter_map(|standing| standing.record.as_ref()).find(|record| record.consent_id == id));
    let shown = in_force.or_else(|| view.standings.iter().find_map(|standing| standing.record.as_ref()));
    if let Some(record) = shown {
        sheet = of_record(sheet, record, out);
    }
    for standing in view.standings.iter().filter(|standing| standing.record.is_some() && standing.record.as_ref() != shown) {
        sheet = sheet.line("also", format!("{}: {}, {}", standing.scope, standing.state, standing.why));
    }
    for record in view.history.iter().filter(|record| Some(*record) != shown) {
        let who = format!("{} as {}", record.actor.id, record.actor.role);
        sheet = sheet.line("before", format!("{} {} by {who}, {}", rfc3339_seconds(record.decided_at), record.decision, record.channel));
    }
    sheet
}

async fn terms(what: TermsWhat, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match what {
        TermsWhat::List(args) => list::<TermsView>(client, out, "list the terms", &["consent", "terms"], &Query::new(), args).await,
        TermsWhat::Show(args) => {
            let query: Query = args.locale.map(|locale| ("locale", locale)).into_iter().collect();
            let view: TermsView = client.get("show the terms", &["consent", "terms", &args.version], &query).await?;
            out.one(&view, &view.version, |_| terms_sheet(&view))?;
            if out.form() == crate::present::Form::Table {
                // A text of ours that lawyers wrote, but it came over the wire: no control characters on a terminal.
                let text: String = view.text.iter().flat_map(|text| text.chars()).filter(|c| *c == '\n' || !c.is_control()).collect();
                out.text(&format!("\n{text}\n"))?;
            }
            Ok(exit::DONE)
        }
        TermsWhat::Publish(args) => {
            let new = NewTerms {
                kind: ConsentKind::Proactive,
                version: args.version,
                locale: args.locale,
                default: match args.silence_is {
                    Silence::OptIn => TermsDefault::OptIn,
                    Silence::DefaultOn => TermsDefault::DefaultOn,
                },
                material: args.material,
                text: read(&args.file)?,
            };
            let view: TermsView = client.post("publish the terms", &["consent", "terms"], &new, None).await?;
            out.one(&view, &view.version, |_| terms_sheet(&view))?;
            Ok(exit::DONE)
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| Failure::usage(format!("--file {}", path.display()), error.to_string());
    let most = 4 * MAX_TERMS_CHARS as u64;
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text).map_err(fail)?;
    } else {
        std::fs::File::open(path).map_err(fail)?.take(most).read_to_string(&mut text).map_err(fail)?;
    }
    Ok(text)
}

fn terms_sheet(view: &TermsView) -> Sheet {
    Sheet::default()
        .line("terms", one_line(&view.id))
        .line("version", format!("{} (number {})", view.version, view.number))
        .line("locale", view.locale.clone())
        .line("sha256", view.sha256.clone())
        .line("silence is", if view.default == TermsDefault::OptIn { "no" } else { "yes, until somebody says no" })
        .line("asks again", if view.material { "yes: earlier grants are suspended" } else { "no" })
        .line("published", format!("{} by {}", rfc3339_seconds(view.published_at), view.published_by))
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{Basis, Decision, DeviceFlag, TermsRef};
    use time::macros::datetime;

    use super::*;

    fn record(version: u32, decision: Decision) -> ConsentRecord {
        ConsentRecord {
            consent_id: format!("cns_01jd8k2m3n4p5q6r7s8t9v0w{version}x").parse().expect("an id"),
            kind: ConsentKind::Proactive,
            tenant: Some("contoso".to_owned()),
            scope: ConsentScope::Device { id: "press-0042".parse().expect("an id") },
            version,
            decision,
            basis: Basis::Explicit,
            terms: Some(TermsRef {
                id: "proactive-log-collection".to_owned(),
                version: "2026-11-28".to_owned(),
                sha256: "ab".repeat(32),
                locale: "en-GB".to_owned(),
                material: false,
            }),
            catalogue_version_at_decision: None,
            actor: Actor { id: "ada@contoso.example".to_owned(), role: Role::DeviceOwner, auth: Some("mfa".to_owned()) },
            channel: Channel::Portal,
            recorded_by: "ops".to_owned(),
            reason: None,
            decided_at: datetime!(2026-11-21 11:58:00 UTC),
            effective_at: datetime!(2026-11-21 11:58:00 UTC),
            expires_at: None,
            case_number: None,
            supersedes: None,
        }
    }

    #[test]
    fn it_says_who_when_how_and_to_what() {
        let out = Out::for_test(Some(100));
        let (last, before) = (record(2, Decision::Granted), record(1, Decision::Declined));
        let scope = last.scope.clone();
        let standing = |record: Option<ConsentRecord>| Standing {
            scope: record.as_ref().map_or_else(|| ConsentScope::Tenant { id: "contoso".to_owned() }, |record| record.scope.clone()),
            state: record.as_ref().map_or(ConsentState::None, |_| ConsentState::Granted),
            why: "consent was granted".to_owned(),
            record,
        };
        let view = ConsentView {
            kind: ConsentKind::Proactive,
            scope,
            state: ConsentState::Granted,
            consent: Some(last.consent_id),
            why: "consent of the device was granted".to_owned(),
            tenant: Some("contoso".to_owned()),
            site: Some("oslo".to_owned()),
            device_says: Some(DeviceFlag { flag: "enabled".to_owned(), heard_at: Some(datetime!(2026-11-21 11:59:00 UTC)) }),
            standings: vec![standing(Some(last.clone())), standing(None)],
            history: vec![last, before],
        };
        insta::assert_snapshot!("consent", sheet(&view, &out).render(&out));
    }
}
