//! Items to modules: for every module, the first item whose id matches supplies the filter. Nothing is merged.

use super::MethodError;
use super::pattern::{ModulePattern, Outcome};
use super::request::LogItem;

/// The patterns of a request's items.
#[derive(Debug)]
pub struct Selection {
    patterns: Vec<ModulePattern>,
}

impl Selection {
    /// Compiles the ids; a bad one is 400 in both methods, before any task is made.
    pub fn new(items: &[LogItem]) -> Result<Self, MethodError> {
        let compile = |item: &LogItem| ModulePattern::new(&item.id).map_err(|error| MethodError::bad_request(format!("id: {error}")));
        Ok(Self { patterns: items.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Index of the item that is responsible for a module. Names are those of the container runtime, without `$`.
    pub fn item_for(&self, module: &str) -> Option<usize> {
        self.patterns.iter().position(|pattern| pattern.find(module) == Outcome::Match)
    }

    /// The modules that are selected, each with the index of its item, in the order they were given.
    pub fn select<'m>(&self, modules: impl IntoIterator<Item = &'m str>) -> Vec<(&'m str, usize)> {
        modules.into_iter().filter_map(|module| self.item_for(module).map(|item| (module, item))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(ids: &[&str]) -> Result<Selection, MethodError> {
        Selection::new(&ids.iter().map(|id| LogItem { id: (*id).to_owned(), ..LogItem::default() }).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_match_is_the_only_one() {
        let selection = selection(&["edgeHub", "all"]).expect("two items");
        assert_eq!(selection.select(["edgeAgent", "edgeHub"]), [("edgeAgent", 1), ("edgeHub", 0)]);
    }

    #[test]
    fn a_bad_id_is_a_bad_request() {
        assert_eq!(selection(&["edge", "["]).expect_err("a bad id").status(), 400);
    }
}
