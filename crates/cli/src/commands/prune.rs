//! `muster collections prune`: deleting history that is old enough, before it goes by itself.

use std::time::Duration;

use clap::Args;
use muster_wire::CollectionId;
use muster_wire::http::{Prune, Pruned};

use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::moment::parse_span;
use crate::present::units::counted;
use crate::present::{Out, Sheet};
use crate::progress;

pub(crate) const PRUNE_EXAMPLES: &str = "\
Examples:
  muster collections prune --older-than 30d
  muster collections prune --older-than 7d col_01jd8k2m3n4p5q6r7s";

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// What ended longer ago than this
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    older_than: Duration,
    /// Only attempts of this collection
    #[arg(value_name = "COLLECTION")]
    id: Option<CollectionId>,
}

pub(crate) async fn prune(args: &PruneArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let body = Prune { older_than_seconds: args.older_than.as_secs(), collection: args.id };
    let all = async {
        let mut sum = Pruned::default();
        loop {
            let part: Pruned = client.post("delete old history", &["collections", "prune"], &body, None).await?;
            sum.attempts += part.attempts;
            sum.device_events += part.device_events;
            if !part.more {
                return Ok::<_, Failure>(sum);
            }
        }
    };
    let pruned = progress::waiting("deleting old history", all).await?;
    let name = args.id.map(|id| id.to_string()).unwrap_or_default();
    out.one(&pruned, &name, |_| sheet(&pruned, args.id))?;
    Ok(exit::DONE)
}

fn sheet(pruned: &Pruned, of: Option<CollectionId>) -> Sheet {
    let events = of.is_none().then(|| counted(pruned.device_events, "device event"));
    let nothing = (pruned.attempts + pruned.device_events == 0).then_some("nothing is that old");
    Sheet::default().line("deleted", counted(pruned.attempts, "attempt")).maybe("and", events).maybe("note", nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_is_told() {
        let out = Out::for_test(Some(100));
        let some = Pruned { attempts: 1, device_events: 1_200, more: false };
        insta::assert_snapshot!(sheet(&some, None).render(&out));
        let id = "col_01jd8k2m3n4p5q6r7s".parse().expect("an id");
        insta::assert_snapshot!("nothing_was_old_enough", sheet(&Pruned::default(), Some(id)).render(&out));
    }
}
