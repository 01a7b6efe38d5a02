//! The body of Put Block List.
//!
//! ```xml
//! <?xml version="1.0" encoding="utf-8"?><BlockList><Latest>AAAA</Latest><Committed>AAAB</Committed></BlockList>
//! ```
//!
//! The grammar is this small, so it is read by hand: no entities, no attributes, no comments, nothing that expands.

use super::refusal::Refusal;
use super::request::block_id;

/// Where to look for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Committed,
    Uncommitted,
    /// Among the uncommitted first.
    Latest,
}

/// Blocks in the order they make up the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlockList {
    pub(crate) entries: Vec<(From, Vec<u8>)>,
}

impl BlockList {
    /// `max_entries` is one past what is accepted, so that the caller can say what the limit is.
    pub(crate) fn parse(body: &[u8], max_entries: usize) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body).map_err(|_| Refusal::Xml("it is not UTF-8"))?;
        let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        if let Some(declared) = rest.strip_prefix("<?xml") {
            rest = declared.split_once("?>").ok_or(Refusal::Xml("its declaration does not end"))?.1.trim_start();
        }
        let mut entries = Vec::new();
        if ["<BlockList/>", "<BlockList />"].contains(&rest) {
            return Ok(Self { entries });
        }
        rest = rest.strip_prefix("<BlockList>").ok_or(Refusal::Xml("it does not start with <BlockList>"))?;
        let mut rest = rest.strip_suffix("</BlockList>").ok_or(Refusal::Xml("it does not end with </BlockList>"))?.trim();
        while !rest.is_empty() {
            let (from, open, close) = [
                (From::Latest, "<Latest>", "</Latest>"),
                (From::Uncommitted, "<Uncommitted>", "</Uncommitted>"),
                (From::Committed, "<Committed>", "</Committed>"),
            ]
            .into_iter()
            .find(|(_, open, _)| rest.starts_with(open))
            .ok_or(Refusal::Xml("there is something else than Latest, Uncommitted and Committed"))?;
            let (id, after) = rest[open.len()..].split_once(close).ok_or(Refusal::Xml("an element does not end"))?;
            entries.push((from, block_id(id.trim())?));
            if entries.len() >= max_entries {
                break;
            }
            rest = after.trim_start();
        }
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(From, Vec<u8>)>, Refusal> {
        BlockList::parse(text.as_bytes(), 100).map(|list| list.entries)
    }

    #[test]
    fn what_clients_send_is_read() {
        let expected = vec![(From::Latest, b"a".to_vec()), (From::Uncommitted, b"b".to_vec()), (From::Committed, b"c".to_vec())];
        let elements = "<Latest>YQ==</Latest><Uncommitted>Yg==</Uncommitted><Committed>Yw==</Committed>";
        for text in [
            format!("<BlockList>{elements}</BlockList>"),
            format!("<?xml version='1.0' encoding='utf-8'?>\n<BlockList>{elements}</BlockList>"),
            format!(
                "\u{feff}<?xml version=\"1.0\"?><BlockList>\r\n  {}\r\n</BlockList>\n",
                elements.replace("><", ">\r\n<").replace(">\r\n</", "></")
            ),
        ] {
            assert_eq!(parse(&text).unwrap(), expected, "{text}");
        }
        for empty in ["<BlockList/>", "<BlockList />", "<BlockList></BlockList>", "<?xml version=\"1.0\"?><BlockList> </BlockList>"] {
            assert!(parse(empty).unwrap().is_empty(), "{empty}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "<",
            "<BlockList>",
            "<BlockList><Latest>YQ==</BlockList>",
            "<BlockList><Newest>YQ==</Newest></BlockList>",
            "<BlockList>text</BlockList>",
            "<?xml <BlockList/>",
            "<BlockList><!-- --><Latest>YQ==</Latest></BlockList>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><BlockList><Latest>&a;</Latest></BlockList>",
        ] {
            assert!(matches!(parse(bad), Err(Refusal::Xml(_))), "{bad}");
        }
        assert!(matches!(parse("<BlockList><Latest>***</Latest></BlockList>"), Err(Refusal::BlockId)));
        assert!(matches!(BlockList::parse(b"\xff", 1), Err(Refusal::Xml(_))));
    }

    #[test]
    fn it_stops_one_past_the_limit() {
        let text = format!("<BlockList>{}</BlockList>", "<Latest>YQ==</Latest>".repeat(50));
        assert_eq!(BlockList::parse(text.as_bytes(), 11).unwrap().entries.len(), 11);
    }
}
