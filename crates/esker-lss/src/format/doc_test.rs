//! Ties the tables of `docs/format.md` to the constants.

use super::{record, slot, superblock};

const DOC: &str = include_str!("../../../../docs/format.md");

/// The rows (offset, bytes, field) of the table under a heading.
fn table(heading: &str) -> Vec<(usize, usize, &'static str)> {
    let section = DOC
        .split_once(&format!("\n{heading}\n"))
        .expect("the section")
        .1;
    let rows: Vec<_> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let number = |cell: &str| cell.parse().expect("a number");
            let field = cells[3].split(':').next().expect("a name");
            (number(cells[1]), number(cells[2]), field)
        })
        .collect();
    let ends = rows.iter().map(|(offset, bytes, _)| offset + bytes);
    assert!(
        ends.zip(&rows[1..]).all(|(end, next)| end <= next.0),
        "{heading}: fields overlap"
    );
    rows
}

#[test]
fn slots_are_as_documented() {
    let expected = [
        (slot::MAGIC_AT, 4, "magic"),
        (slot::VERSION_AT, 2, "version"),
        (slot::FLAGS_AT, 2, "flags"),
        (slot::LEN_AT, 4, "len"),
        (slot::EPOCH_AT, 4, "epoch"),
        (slot::STORE_ID_AT, 8, "store_id"),
        (slot::SEQ_AT, 8, "seq"),
        (slot::BASE_AT, 8, "base"),
        (slot::DURABLE_AT, 8, "durable"),
        (slot::EPOCH_START_AT, 8, "epoch_start"),
        (slot::CHECKSUM_AT, 8, "checksum"),
    ];
    assert_eq!(table("## Slot"), expected);
    assert_eq!(slot::CHECKSUM_AT + 8, slot::HEADER_BYTES);
}

#[test]
fn records_are_as_documented() {
    let expected = [
        (record::LENGTH_AND_KIND_AT, 4, "length_and_kind"),
        (record::CHECKSUM_AT, 4, "checksum"),
    ];
    assert_eq!(table("## Record"), expected);
    for factor in [record::WORD_FACTOR, record::SUM_FACTOR] {
        assert!(DOC.contains(&format!("{factor:#018X}").replace("0X", "0x")));
    }
}

#[test]
fn superblocks_are_as_documented() {
    let position = superblock::POSITION_BYTES;
    let expected = [
        (superblock::MAGIC_AT, 8, "magic"),
        (superblock::VERSION_AT, 4, "version"),
        (superblock::BLOCK_BYTES_AT, 4, "block_bytes"),
        (superblock::STORE_ID_AT, 8, "store_id"),
        (superblock::COUNTER_AT, 8, "counter"),
        (superblock::EPOCH_AT, 4, "epoch"),
        (superblock::WINDOW_SLOTS_AT, 4, "window_slots"),
        (superblock::SEGMENT_BYTES_AT, 8, "segment_bytes"),
        (superblock::WINDOW_BYTES_AT, 8, "window_bytes"),
        (superblock::MAX_RECORD_BYTES_AT, 8, "max_record_bytes"),
        (superblock::EPOCH_START_AT, position, "epoch_start"),
        (superblock::FIRST_AT, position, "first"),
        (superblock::CHECKPOINT_AT, position, "checkpoint"),
        (superblock::CLEAN_AT, 4, "clean"),
        (superblock::CLEAN_END_AT, position, "clean_end"),
        (superblock::CHECKSUM_AT, 8, "checksum"),
    ];
    assert_eq!(table("## Superblock"), expected);
    let [first, second] = superblock::COPY_OFFSETS;
    let copies = format!(
        "{} bytes, at offsets {first} and {second}",
        superblock::COPY_BYTES
    );
    assert!(DOC.contains(&copies));
    let expected = [
        (superblock::POSITION_LSN_AT, 8, "lsn"),
        (superblock::POSITION_SEQ_AT, 8, "seq"),
        (superblock::POSITION_EPOCH_START_AT, 8, "epoch_start"),
        (superblock::POSITION_EPOCH_AT, 4, "epoch"),
    ];
    assert_eq!(table("### Position"), expected);
}

/// A slot with a data record and a void, as version 1 has them since it exists.
#[test]
fn the_bytes_of_slots_and_records_of_version_1_are_frozen() {
    use crate::Lsn;
    let seal = record::RecordSeal::new(0x0102_0304_0506_0708);
    let mut bytes = vec![0; 512];
    record::write_into(&mut bytes[64..80], &seal, Lsn::new(4096 + 64), b"esker");
    record::write_void(&mut bytes[80..96], &seal, Lsn::new(4096 + 80));
    let header = slot::SlotHeader {
        extent: false,
        len: 96,
        epoch: 2,
        store_id: 0x0102_0304_0506_0708,
        seq: 3,
        base: Lsn::new(4096),
        durable: Lsn::new(2048),
        epoch_start: Lsn::new(1024),
    };
    header.seal(&mut bytes);
    let hex: String = bytes[..96]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex,
        concat!(
            "45534b52010000006000000002000000",
            "08070605040302010300000000000000",
            "00100000000000000008000000000000",
            "0004000000000000d5e038641d691bca",
            "290000006854de4b65736b6572000000",
            "4200000001fcdfe90000000000000000",
        )
    );
}
