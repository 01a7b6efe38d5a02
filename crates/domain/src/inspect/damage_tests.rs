//! Damaged and hostile files, made here.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use ::zip::{CompressionMethod, ZipArchive, ZipWriter};
use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

use super::tests::{File, fault, gzip, look_at, look_with, options, replace, streamed_zip, zip, zip_with};
use super::*;

const SMALL: &[File<'_>] =
    &[("check.json", b"{\"a\": 1}"), ("logs/edgeHub_log.txt", b"one line after the other after the other\n"), ("empty", b"")];

fn small_zips() -> [(&'static str, Vec<u8>); 4] {
    [
        ("deflated", zip(SMALL)),
        ("stored", zip_with(SMALL, options().compression_method(CompressionMethod::Stored))),
        ("64-bit", zip_with(SMALL, options().large_file(true))),
        ("streamed", streamed_zip(SMALL)),
    ]
}

/// What a reader that is not ours finds in a zip.
fn unpacked(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    (0..archive.len())
        .map(|i| {
            let mut file = archive.by_index(i).ok()?;
            let mut content = Vec::new();
            file.read_to_end(&mut content).ok()?;
            Some((file.name().ok()?.into_owned(), content))
        })
        .collect()
}

#[test]
fn a_zip_cut_at_any_length_is_truncated() {
    for (way, bytes) in small_zips() {
        for length in 1..bytes.len() {
            let finding = look_at("b.zip", &bytes[..length]);
            assert_eq!(fault(&finding).0, Reason::UploadTruncated, "{way} cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn a_zip_with_a_byte_changed_is_never_taken_for_another() {
    for (way, bytes) in small_zips() {
        let (original, mut good) = (unpacked(&bytes).expect("sound"), 0);
        for at in 0..bytes.len() {
            for mask in [0x01, 0x04, 0x08, 0x20, 0x80, 0xff] {
                let mut flipped = bytes.clone();
                flipped[at] ^= mask;
                let finding = look_at("b.zip", &flipped);
                let structure = look_with("b.zip", &flipped, &InspectLimits { depth: Depth::Structure, ..InspectLimits::default() });
                if finding.condition == Condition::Good {
                    good += 1;
                    assert_eq!(structure.condition, Condition::Good, "{way} byte {at} ^ {mask:#x}");
                    let listed: Vec<_> =
                        finding.zip.expect("contents").listed.into_iter().map(|entry| (entry.name, entry.size_bytes)).collect();
                    let expected: Vec<_> = original.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect();
                    assert_eq!(listed, expected, "{way} byte {at} ^ {mask:#x}");
                    assert_eq!(unpacked(&flipped).as_ref(), Some(&original), "{way} byte {at} ^ {mask:#x}");
                } else {
                    let reason = fault(&finding).0;
                    assert!(
                        matches!(reason, Reason::UploadDamaged | Reason::UploadTruncated | Reason::UploadUnsafe),
                        "{way} byte {at} ^ {mask:#x}: {reason}"
                    );
                }
            }
        }
        // Times, attributes and versions may change; content, names, sizes and checksums may not.
        assert!(good > 0 && good < bytes.len() * 6 / 3, "{way}: {good} of {} changes passed", bytes.len() * 6);
    }
}

#[test]
fn a_gzip_with_a_byte_changed_or_lost_is_never_taken_for_another() {
    let bytes = [gzip(b"one line after the other\n"), gzip(b"and another\n")].concat();
    let content = |bytes: &[u8]| {
        let mut content = Vec::new();
        MultiGzDecoder::new(bytes).read_to_end(&mut content).ok().map(|_| content)
    };
    let original = content(&bytes).expect("sound");
    let first = gzip(b"one line after the other\n").len();
    for length in (1..bytes.len()).filter(|length| *length != first) {
        assert_eq!(fault(&look_at("m.log.gz", &bytes[..length])).0, Reason::UploadTruncated, "cut to {length}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let finding = look_at("m.log.gz", &flipped);
            match &finding.condition {
                Condition::Good => assert_eq!(content(&flipped).as_ref(), Some(&original), "byte {at} bit {bit}"),
                Condition::Bad(fault) => {
                    assert!(matches!(fault.reason, Reason::UploadDamaged | Reason::UploadTruncated), "byte {at} bit {bit}")
                }
                Condition::Empty => panic!("byte {at} bit {bit} made it empty"),
            }
        }
    }
}

#[test]
fn a_bomb_is_refused_by_what_it_declares() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("zeros", options()).expect("a new file");
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        writer.write_all(&zeros).expect("into memory");
    }
    let bomb = writer.finish().expect("into memory").into_inner();
    assert!(bomb.len() < 2 << 20);
    for depth in [Depth::Full, Depth::Structure] {
        let finding = look_with("b.zip", &bomb, &InspectLimits { depth, ..InspectLimits::default() });
        let (reason, detail) = fault(&finding);
        assert_eq!(reason, Reason::UploadUnsafe);
        assert!(detail.contains("1073741824"), "{detail}");
    }
    // A gzip declares nothing; it is stopped on the way.
    let limits = InspectLimits { ratio_free_bytes: 1 << 20, ..InspectLimits::default() };
    let packed = gzip(&vec![0; 8 << 20]);
    assert_eq!(fault(&look_with("m.log.gz", &packed, &limits)).0, Reason::UploadUnsafe);
    assert_eq!(fault(&look_with("m.json.gz", &gzip(&vec![b' '; 8 << 20]), &limits)).0, Reason::UploadUnsafe);
    assert_eq!(look_with("m.log.gz", &gzip(&vec![0; 1 << 20]), &limits).condition, Condition::Good);
    let total = InspectLimits { expanded_bytes: 99, ..InspectLimits::default() };
    assert_eq!(fault(&look_with("b.zip", &zip(&[("a", &[b'a'; 50]), ("b", &[b'b'; 50])]), &total)).0, Reason::UploadUnsafe);
    assert_eq!(look_with("b.zip", &zip(&[("a", &[b'a'; 50]), ("b", &[b'b'; 49])]), &total).condition, Condition::Good);
}

#[test]
fn an_entry_that_lies_about_its_size_is_stopped_there() {
    let honest = zip(&[("zeros", &vec![0; 1 << 20])]);
    let less = replace(&honest, &(1u32 << 20).to_le_bytes(), &1000u32.to_le_bytes());
    assert_eq!(fault(&look_at("b.zip", &less)).0, Reason::UploadUnsafe);
    let more = replace(&honest, &(1u32 << 20).to_le_bytes(), &(2u32 << 20).to_le_bytes());
    assert_eq!(fault(&look_at("b.zip", &more)).0, Reason::UploadDamaged);
}

#[test]
fn seventy_thousand_entries_need_64_bits_and_are_counted() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = options().compression_method(CompressionMethod::Stored);
    for i in 0..70_000 {
        writer.start_file(format!("logs/{i}.txt"), stored).expect("a new file");
        writer.write_all(b"x").expect("into memory");
    }
    let bytes = writer.finish().expect("into memory").into_inner();
    let finding = look_at("b.zip", &bytes);
    assert_eq!((&finding.condition, finding.entries()), (&Condition::Good, Some(70_000)));
    let contents = finding.zip.expect("contents");
    assert_eq!((contents.listed.len(), contents.listing_cut, contents.expanded_bytes), (MAX_LISTED_ENTRIES, true, 70_000));

    for limits in [
        InspectLimits { entries: 69_999, ..InspectLimits::default() },
        InspectLimits { directory_bytes: 1 << 20, ..InspectLimits::default() },
    ] {
        assert_eq!(fault(&look_with("b.zip", &bytes, &limits)).0, Reason::UploadUnsafe);
    }
    for length in [bytes.len() - 1, bytes.len() - 30, bytes.len() / 2] {
        assert_eq!(fault(&look_at("b.zip", &bytes[..length])).0, Reason::UploadTruncated);
    }
}

#[test]
fn a_claim_of_countless_entries_allocates_nothing() {
    let mut end = b"PK\x06\x06".to_vec();
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [u64::MAX / 50, u64::MAX / 50, u64::MAX - 7, 0] {
        end.extend(number.to_le_bytes());
    }
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend(0u64.to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    fault(&look_at("b.zip", &end));
}

#[test]
fn names_that_lead_out_of_the_archive_are_unsafe() {
    for name in ["../../x", "/etc/pw", "a/../b!", "..\\..\\x", "C:\\ab.c", "a\0b/c.d", "a\nb/c.d"] {
        let plain = "#".repeat(name.len());
        let bytes = replace(&zip(&[("check.json", b"{}"), (&plain, b"x")]), plain.as_bytes(), name.as_bytes());
        let finding = look_at("b.zip", &bytes);
        assert_eq!(fault(&finding).0, Reason::UploadUnsafe, "{name:?}");
        assert_eq!(finding.zip, None);
    }
}

#[test]
fn a_link_is_unsafe_and_a_file_with_a_mode_is_not() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("a", options().unix_permissions(0o644)).expect("a new file");
    writer.write_all(b"x").expect("into memory");
    writer.add_directory("d", options()).expect("a directory");
    let mut linked = ZipWriter::new(Cursor::new(Vec::new()));
    linked.add_symlink("a", "/etc/passwd", options()).expect("a link");
    assert_eq!(look_at("b.zip", &writer.finish().expect("into memory").into_inner()).condition, Condition::Good);
    assert_eq!(fault(&look_at("b.zip", &linked.finish().expect("into memory").into_inner())).0, Reason::UploadUnsafe);
}

#[test]
fn encrypted_foreign_and_doubled_entries_are_damage() {
    let bytes = zip(&[("aaaa", b"some text"), ("bbbb", b"other text")]);
    assert_eq!(fault(&look_at("b.zip", &replace(&bytes, b"bbbb", b"aaaa"))).1, "two entries of the zip have the same name");
    let header = |magic: &[u8], at: usize, value: u8, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let places: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, window)| *window == magic).map(|(at, _)| at).collect();
        for place in places {
            bytes[place + at] = value;
        }
        bytes
    };
    let encrypted = header(b"PK\x01\x02", 8, 1, &header(b"PK\x03\x04", 6, 1, &bytes));
    assert!(fault(&look_at("b.zip", &encrypted)).1.contains("encrypted"));
    let zstd = header(b"PK\x01\x02", 10, 93, &header(b"PK\x03\x04", 8, 93, &bytes));
    assert!(fault(&look_at("b.zip", &zstd)).1.contains("method 93"));
    // Name, checksum, stored size, expanded size: each must be the same in both places.
    for at in [30, 14, 18, 22] {
        let differs = header(b"PK\x03\x04", at, 0xee, &bytes);
        assert_eq!(fault(&look_at("b.zip", &differs)), (Reason::UploadDamaged, "aaaa: its header and the directory contradict each other"));
    }
}

/// Adds to a number in a file.
fn add(bytes: &mut [u8], at: usize, more: u32) {
    let number = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) + more;
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[test]
fn whatever_readers_could_disagree_about_is_damage() {
    let bytes = zip(&[("check.json", b"some text, some text, some text")]);
    let (directory, end) = (bytes.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory"), bytes.len() - 22);
    let detail = |bytes: &[u8]| fault(&look_at("b.zip", bytes)).1.to_owned();

    let mut two_ends = [&bytes[..], &bytes[end..]].concat();
    two_ends[end + 20] = 22;
    assert!(detail(&two_ends).contains("two ends"));

    let mut longer_directory = [&bytes[..end], b"extra", &bytes[end..]].concat();
    add(&mut longer_directory, end + 5 + 12, 5);
    assert!(detail(&longer_directory).contains("more than its entries"));

    let mut longer_data = [&bytes[..directory], b"x", &bytes[directory..]].concat();
    for at in [18, directory + 1 + 20, end + 1 + 16] {
        add(&mut longer_data, at, 1);
    }
    assert!(detail(&longer_data).contains("more bytes are stored"));

    let mut wide = b"PK\x06\x06".to_vec();
    wide.extend(44u64.to_le_bytes());
    wide.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [1, 1, end - directory, directory] {
        wide.extend((number as u64).to_le_bytes());
    }
    wide.extend(b"PK\x06\x07\0\0\0\0");
    wide.extend((end as u64).to_le_bytes());
    wide.extend([1, 0, 0, 0]);
    let both_ends = [&bytes[..end], &wide, &bytes[end..]].concat();
    assert_eq!(look_at("b.zip", &both_ends).condition, Condition::Good);
    let end = end + wide.len();
    for at in [8, 10, 12, 16] {
        let mut contradicting = both_ends.clone();
        contradicting[end + at] ^= 2;
        assert!(detail(&contradicting).contains("contradict each other"), "member at {at}");
    }
}

#[test]
fn entries_that_share_bytes_are_unsafe() {
    // "b" lies inside the stored data of "a", and the directory names both.
    let stored = options().compression_method(CompressionMethod::Stored);
    let inner = zip_with(&[("b", b"inner")], stored);
    let inner_directory = inner.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory");
    let outer = zip_with(&[("a", &inner[..inner_directory])], stored);
    let directory = outer.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory");
    let inner_at = outer.windows(4).skip(1).position(|w| w == b"PK\x03\x04").expect("the inner header") + 1;
    let end = outer.len() - 22;
    let mut second = inner[inner_directory..inner.len() - 22].to_vec();
    second[42..46].copy_from_slice(&(inner_at as u32).to_le_bytes());
    let mut bytes = [&outer[..end], &second, &outer[end..]].concat();
    let end = bytes.len() - 22;
    bytes[end + 8..end + 10].copy_from_slice(&2u16.to_le_bytes());
    bytes[end + 10..end + 12].copy_from_slice(&2u16.to_le_bytes());
    bytes[end + 12..end + 16].copy_from_slice(&((end - directory) as u32).to_le_bytes());
    assert_eq!(fault(&look_at("b.zip", &bytes)), (Reason::UploadUnsafe, "entries of the zip overlap"));
}

#[test]
fn bytes_around_the_archive_are_damage() {
    let bytes = zip(SMALL);
    assert_eq!(fault(&look_at("b.zip", &[&b"prefix"[..], &bytes].concat())).0, Reason::UploadDamaged);
    assert_eq!(fault(&look_at("b.zip", &[&bytes[..], b"suffix"].concat())).0, Reason::UploadDamaged);
    assert_eq!(fault(&look_at("b.zip", &[&bytes[..], &bytes].concat())).0, Reason::UploadDamaged);
    assert_eq!(fault(&look_at("b.zip", &bytes[5..])).0, Reason::UploadTruncated);
    let nested = zip_with(&[("check.json", b"{}"), ("inner.zip", &bytes)], options().compression_method(CompressionMethod::Stored));
    assert_eq!(look_at("b.zip", &nested).condition, Condition::Good, "an archive inside is a file like any other");
}

/// A storage that fails at one place.
struct Failing<'a> {
    inner: Cursor<&'a [u8]>,
    at: u64,
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.inner.position() + buffer.len() as u64 > self.at {
            return Err(io::Error::other("connection reset"));
        }
        self.inner.read(buffer)
    }
}

impl Seek for Failing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn a_storage_that_fails_is_never_blamed_on_the_object() {
    let json = format!("[{}1]", "1,".repeat(20_000));
    for (name, bytes) in [
        ("b.zip", zip(SMALL)),
        ("m.json", json.clone().into_bytes()),
        ("m.json.gz", gzip(json.as_bytes())),
        ("m.log.gz", gzip(&[7; 100_000])),
    ] {
        for at in (0..bytes.len() as u64).step_by(bytes.len().div_ceil(300)) {
            let finding = inspect(name, Failing { inner: Cursor::new(&bytes), at }, bytes.len() as u64, &InspectLimits::default());
            assert_eq!(fault(&finding).0, Reason::LandingUnavailable, "{name} failing at {at}");
        }
        let shorter = inspect(name, Cursor::new(&bytes[..bytes.len() - 1]), bytes.len() as u64, &InspectLimits::default());
        assert_eq!(fault(&shorter).0, Reason::UploadTruncated, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_under_any_name_are_judged_without_a_panic(
        head in prop::sample::select(vec![&b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"{", b"["]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        name in prop::sample::select(vec!["a.zip", "a.gz", "a.json.gz", "a.json", "a.log", "a"]),
        full: bool,
    ) {
        let depth = if full { Depth::Full } else { Depth::Structure };
        look_with(name, &[head, &bytes].concat(), &InspectLimits { depth, ..InspectLimits::default() });
    }

    #[test]
    fn several_changes_at_once_are_no_panic_either(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), which in 0usize..4) {
        let (_, mut bytes) = small_zips()[which].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        look_at("a.zip", &bytes);
    }
}
