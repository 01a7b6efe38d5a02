use super::*;
use serde_json::json;

/// What came of each row, in short, and how reading ended.
fn told(format: Format, input: impl Read) -> (Vec<String>, Result<(), Broken>) {
    let mut told = Vec::new();
    let ended = read(format, input, |row| {
        told.push(match row {
            ReadRow::Entry(line, entry) => {
                let parent = entry.parent.map(|parent| format!(" behind {:?}", parent.as_ref().map(DeviceId::as_str))).unwrap_or_default();
                format!("{line} {} {}{parent}", entry.device, entry.tags.map(|tags| tags.to_string()).unwrap_or_default())
            }
            ReadRow::Refused(refusal) => {
                format!("{} NO {}: {}", refusal.line.unwrap_or_default(), refusal.column.unwrap_or_default(), refusal.reason)
            }
        });
        true
    });
    (told, ended)
}

#[test]
fn a_csv_of_a_spreadsheet() {
    let text = "\u{feff}id,parent,tags.site,tags.line.no:number,tags.lab:boolean\r\n\
        press-1,gateway-7,oslo,4,true\r\n\
        press-2,,\"a, \"\"b\"\"\r\nc\",,\r\n\
        007,,007,-1.5e3,false\r\n";
    let (rows, ended) = told(Format::Csv, text.as_bytes());
    assert_eq!(ended, Ok(()));
    let tags = |value: Value| value.to_string();
    assert_eq!(rows[0], format!("2 press-1 {} behind Some(\"gateway-7\")", tags(json!({"lab": true, "line": {"no": 4}, "site": "oslo"}))));
    assert_eq!(rows[1], format!("3 press-2 {}", tags(json!({"site": "a, \"b\"\r\nc"}))));
    assert_eq!(rows[2], format!("5 007 {}", tags(json!({"lab": false, "line": {"no": -1500.0}, "site": "007"}))));
}

#[test]
fn a_bad_row_is_told_with_its_line_and_column_and_keeps_no_other_out() {
    let mut text = b"id,parent,tags.n:number,tags.b:boolean,tags.t\n".to_vec();
    text.extend(b"a b,,,,\n,,,,\nx,a/b,,,\nx,,four,,\nx,,NaN,,\nx,,,yes,\nx,,\nx,x,,,\nx,,,,\xff\nx,,,,a\0b\ngood,,1,true,t\n");
    let (rows, ended) = told(Format::Csv, text.as_slice());
    assert_eq!(ended, Ok(()));
    for (row, words) in rows.iter().zip([
        "2 NO id: a device id is made of",
        "3 NO id: a device id has 1 to 128",
        "4 NO parent: a device id is made of",
        "5 NO tags.n:number: \"four\" is not a number",
        "6 NO tags.n:number: \"NaN\" is not a number",
        "7 NO tags.b:boolean: \"yes\" is neither",
        "8 NO : the row has 3 cells, the header 5",
        "9 NO parent: a device is not behind itself",
        "10 NO : the row is not UTF-8",
        "11 NO tags: tags.t: a tag's text holds no NUL",
        "12 good {\"b\":true,\"n\":1,\"t\":\"t\"}",
    ]) {
        assert!(row.starts_with(words), "{row:?} is not {words:?}");
    }
    assert_eq!(rows.len(), 11);
}

#[test]
fn a_header_that_cannot_be_meant_is_refused() {
    let many = (0..MAX_IMPORT_COLUMNS).map(|n| format!(",tags.t{n}")).collect::<String>();
    for (text, words) in [
        ("", "is empty"),
        ("tags.a\n", "no column id"),
        ("id,site\n", "\"site\" is none of"),
        ("id,id\n", "stands where another"),
        ("id,tags.a,tags.a.b\n", "stands where another"),
        ("id,tags.a:date\n", "ends in \"date\""),
        ("id,tags..a\n", "no place of a tag"),
        ("id,tags.a.b.c.d.e.f.g.h.i\n", "at most 8"),
        (&format!("id{many}\n"), "at most 100"),
    ] {
        let (_, ended) = told(Format::Csv, text.as_bytes());
        let broken = ended.expect_err(words);
        assert!(broken.reason.contains(words), "{:?} lacks {words:?}", broken.reason);
    }
}

#[test]
fn lines_of_json() {
    let deep = format!("{{\"id\":\"x\",\"tags\":{}1{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let nested = format!("{{\"id\":\"x\",\"tags\":{}1{}}}", "{\"a\":".repeat(9), "}".repeat(9));
    let long = format!("{{\"id\":\"x\",\"tags\":{{\"a\":\"{}\"}}}}", "y".repeat(10 * 1024 * 1024));
    let text = format!(
        "\u{feff}{{\"id\":\"a\",\"tags\":{{\"n\":1,\"gone\":null}},\"parent\":null}}\r\n\n{{\"id\":\"b\"}}\n{deep}\n{nested}\n{long}\n{{\"id\":\"c\",\"tag\":1}}\n{{\"id\":7}}\n[]\n{{\"id\":\"d\",\"tags\":[]}}\n\0\n{{\"id\":\"last\"}}"
    );
    let (rows, ended) = told(Format::Ndjson, text.as_bytes());
    assert_eq!(ended, Ok(()));
    for (row, words) in rows.iter().zip([
        "1 a {\"gone\":null,\"n\":1} behind None",
        "3 b ",
        "4 NO : the row is longer than 65536 bytes",
        "5 NO tags: tags.a.a.a.a.a.a.a.a: tags are nested",
        "6 NO : the row is longer than 65536 bytes",
        "7 NO character",
        "8 NO character",
        "9 NO character",
        "10 NO tags: tags are a JSON object",
        "11 NO character",
        "12 last ",
    ]) {
        assert!(row.starts_with(words), "{row:?} is not {words:?}");
    }
    assert_eq!(rows.len(), 11);
    let (rows, _) = told(Format::Ndjson, format!("{{\"id\":\"x\",\"tags\":{}1{}}}", "[".repeat(200), "]".repeat(200)).as_bytes());
    assert!(rows[0].starts_with("1 NO character"), "{rows:?}");
}

/// Gives the same line over and over, and keeps nothing.
struct Repeated {
    head: &'static [u8],
    line: &'static [u8],
    at: usize,
    left: u64,
}

impl Read for Repeated {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.head.is_empty() {
            return self.head.read(buffer);
        }
        if self.left == 0 {
            return Ok(0);
        }
        let count = (&self.line[self.at..]).read(buffer)?;
        self.at = (self.at + count) % self.line.len();
        self.left -= u64::from(self.at == 0);
        Ok(count)
    }
}

#[test]
fn a_quote_that_is_never_closed_ends_the_reading_and_not_the_memory() {
    let endless = Repeated { head: b"id,tags.a\ngood,1\nx,\"", line: b"yyyyyyyyyyyyyyyy", at: 0, left: u64::MAX };
    let (rows, ended) = told(Format::Csv, endless);
    assert_eq!(rows, ["2 good {\"a\":\"1\"}"]);
    let broken = ended.expect_err("endless");
    assert_eq!(broken.line, 3);
    assert!(broken.reason.contains("is a quote open?"), "{}", broken.reason);
}

#[test]
fn many_rows_go_through_one_by_one() {
    for (format, head, line) in
        [(Format::Csv, &b"id,tags.a\n"[..], &b"press-1,b\n"[..]), (Format::Ndjson, b"", b"{\"id\":\"press-1\",\"tags\":{\"a\":\"b\"}}\n")]
    {
        let (mut rows, mut last) = (0u64, 0);
        let ended = read(format, Repeated { head, line, at: 0, left: 100_000 }, |row| {
            rows += 1;
            if let ReadRow::Entry(line, _) = row {
                last = line;
            }
            rows < 90_000
        });
        let heading = u64::from(format == Format::Csv);
        assert_eq!((ended, rows, last), (Ok(()), 90_000, 90_000 + heading), "{format:?}: it stops when enough was read");
    }
}

#[test]
fn a_body_has_a_limit_and_may_break() {
    let (sender, receiver) = mpsc::channel(4);
    sender.try_send(Ok(Bytes::from_static(b"{\"id\":\"a\"}\n{\"id\":\"b\"}\n"))).expect("room");
    drop(sender);
    let (rows, ended) = told(Format::Ndjson, Pieces::new(receiver, 16));
    assert!(rows.is_empty() && ended.expect_err("too long").reason.contains("larger than 16 bytes"));
    let (sender, receiver) = mpsc::channel(4);
    sender.try_send(Ok(Bytes::from_static(b"{\"id\":\"a\"}\n{\"id\""))).expect("room");
    sender.try_send(Err(std::io::Error::other("the list ended before it was complete"))).expect("room");
    let (rows, ended) = told(Format::Ndjson, Pieces::new(receiver, 1_000));
    assert_eq!((rows.len(), ended.expect_err("broken").reason.as_str()), (1, "the list ended before it was complete"));
}
