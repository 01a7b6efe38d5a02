//! What a condition says of one device, without a database. The statements that the store makes of a condition are held to this.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Column, Comparison, Condition, Kind, Literal, Path, Place, Test};

/// What a condition can ask about a device.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// `deviceId`
    pub id: &'a str,
    /// `presence`
    pub presence: &'a str,
    /// `parent`
    pub parent: Option<&'a str>,
    /// `agent.name`
    pub agent_name: Option<&'a str>,
    /// `agent.version`
    pub agent_version: Option<&'a str>,
    /// `tags`
    pub tags: &'a Value,
    /// `reported`
    pub reported: &'a Value,
}

/// A value that a path leads to.
enum Found<'a> {
    Json(&'a Value),
    Text(&'a str),
}

impl Condition {
    /// Whether the device is selected.
    pub fn selects(&self, subject: &Subject<'_>) -> bool {
        self.says(subject) == Some(true)
    }

    /// True, false, or (`None`) undefined.
    pub fn says(&self, subject: &Subject<'_>) -> Option<bool> {
        match self {
            Self::All(all) => decide(all, subject, false),
            Self::Any(any) => decide(any, subject, true),
            Self::Not(inner) => inner.says(subject).map(|truth| !truth),
            Self::Test(path, test) => {
                let found = subject.find(path);
                match test {
                    Test::Defined => Some(found.is_some()),
                    Test::Is(kind) => Some(found.is_some_and(|found| found.kind() == *kind)),
                    Test::Compare(comparison, literal) => found?.compare(*comparison, literal),
                    Test::In(list) => found?.is_one_of(list),
                    Test::Holds(place, text) => found?.text().map(|found| match place {
                        Place::Start => found.starts_with(text.as_str()),
                        Place::End => found.ends_with(text.as_str()),
                        Place::Anywhere => found.contains(text.as_str()),
                    }),
                }
            }
        }
    }
}

/// One member that says `decisive` decides; otherwise one that is undefined makes the whole so.
fn decide(members: &[Condition], subject: &Subject<'_>, decisive: bool) -> Option<bool> {
    let mut outcome = Some(!decisive);
    for member in members {
        match member.says(subject) {
            Some(truth) if truth == decisive => return Some(decisive),
            None => outcome = None,
            Some(_) => {}
        }
    }
    outcome
}

impl<'a> Subject<'a> {
    fn find(&self, path: &Path) -> Option<Found<'a>> {
        let below = |root: &'a Value, keys: &[String]| keys.iter().try_fold(root, |value, key| value.as_object()?.get(key));
        match path {
            Path::Tags(keys) => below(self.tags, keys).map(Found::Json),
            Path::Reported(keys) => below(self.reported, keys).map(Found::Json),
            Path::Column(column) => match column {
                Column::DeviceId => Some(self.id),
                Column::Presence => Some(self.presence),
                Column::Parent => self.parent,
                Column::AgentName => self.agent_name,
                Column::AgentVersion => self.agent_version,
            }
            .map(Found::Text),
        }
    }
}

impl Found<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) | Self::Json(Value::String(_)) => Kind::String,
            Self::Json(Value::Null) => Kind::Null,
            Self::Json(Value::Bool(_)) => Kind::Bool,
            Self::Json(Value::Number(_)) => Kind::Number,
            Self::Json(Value::Array(_)) => Kind::Array,
            Self::Json(Value::Object(_)) => Kind::Object,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(value) => value.as_str(),
        }
    }

    /// How it stands to a literal of its own kind.
    fn order(&self, literal: &Literal) -> Option<Ordering> {
        match (literal, self) {
            (Literal::Text(text), found) => found.text().map(|found| found.cmp(text)),
            // A literal lies within what a float holds exactly, so a larger integer may be rounded: it stays the larger one.
            (Literal::Number(number), Self::Json(Value::Number(found))) => found.as_f64()?.partial_cmp(number),
            (Literal::Bool(truth), Self::Json(Value::Bool(found))) => Some(found.cmp(truth)),
            (Literal::Null, Self::Json(Value::Null)) => Some(Ordering::Equal),
            _ => None,
        }
    }

    fn compare(&self, comparison: Comparison, literal: &Literal) -> Option<bool> {
        let order = self.order(literal)?;
        Some(match comparison {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        })
    }

    fn is_one_of(&self, list: &[Literal]) -> Option<bool> {
        let orders = || list.iter().map(|literal| self.order(literal));
        if orders().any(|order| order == Some(Ordering::Equal)) {
            return Some(true);
        }
        orders().all(|order| order.is_some()).then_some(false)
    }
}
