//! Tests of framing: digest vectors, every segmentation, limits.

use super::*;
use crate::wire::iscsi::request::NopOut;
use proptest::prelude::*;

fn pdu(framer: Framer, data: &[u8]) -> Vec<u8> {
    let bhs = NopOut { task_tag: 7, data_len: data.len() as u32, ..NopOut::default() }.to_bhs();
    let mut tx = TxQueue::new();
    framer.put(&mut tx, &bhs, data);
    sent(&mut tx)
}

fn sent(tx: &mut TxQueue) -> Vec<u8> {
    let mut out = Vec::new();
    tx.take(usize::MAX, &mut out);
    out.concat()
}

/// Feeds a stream in chunks of `step` bytes; gives each PDU's header and data.
fn read(
    deframer: &mut Deframer,
    stream: &[u8],
    step: usize,
) -> Result<Vec<(Bhs, Vec<u8>)>, FrameError> {
    let mut out: Vec<(Bhs, Vec<u8>)> = Vec::new();
    for chunk in stream.chunks(step) {
        let mut at = 0;
        while let Some(item) = deframer.next(chunk, &mut at)? {
            match item {
                Item::Header(bhs) => out.push((bhs, Vec::new())),
                Item::Data { range, .. } => {
                    out.last_mut().expect("a header came first").1.extend_from_slice(&chunk[range]);
                }
            }
        }
        assert_eq!(at, chunk.len());
    }
    Ok(out)
}

/// RFC 7143 13.1 and RFC 3720 B.4: CRC32C examples.
#[test]
fn digest_vectors() {
    let up: Vec<u8> = (0..32).collect();
    let down: Vec<u8> = (0..32).rev().collect();
    let read10: [u8; 48] = [
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0,
        0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    ];
    for (bytes, digest) in [
        (&[0; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
        (&[0xff; 32][..], [0x43, 0xab, 0xa8, 0x62]),
        (&up[..], [0x4e, 0x79, 0xdd, 0x46]),
        (&down[..], [0x5c, 0xdb, 0x3f, 0x11]),
        (&read10[..], [0x56, 0x3a, 0x96, 0xd9]),
    ] {
        assert_eq!(crc32c::crc32c(bytes).to_le_bytes(), digest);
    }
}

/// RFC 7143 11.2: what a PDU looks like with padding and both digests.
#[test]
fn literal_pdu_with_digests() {
    let bytes = pdu(Framer { header_digest: true, data_digest: true }, b"abcde");
    assert_eq!(bytes.len(), 48 + 4 + 5 + 3 + 4);
    assert_eq!(&bytes[..8], &[0, 0x80, 0, 0, 0, 0, 0, 5]);
    assert_eq!(&bytes[48..52], &crc32c::crc32c(&bytes[..48]).to_le_bytes());
    assert_eq!(&bytes[52..60], b"abcde\0\0\0");
    assert_eq!(&bytes[60..], &crc32c::crc32c(b"abcde\0\0\0").to_le_bytes());
}

/// RFC 7143 4.2.9, 11.2.3: every segmentation, all digest settings, all padding lengths, no digest word
/// for an empty data segment.
#[test]
fn any_segmentation() {
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let framer = Framer { header_digest, data_digest };
        let stream: Vec<u8> = [&b""[..], b"a", b"ab", b"abc", b"abcd", b"abcdefghi", b""]
            .iter()
            .flat_map(|d| pdu(framer, d))
            .collect();
        for step in 1..=stream.len() {
            let mut deframer = Deframer::new(8192, false);
            deframer.set_digests(header_digest, data_digest);
            let pdus = read(&mut deframer, &stream, step).expect("a good stream");
            let data: Vec<&[u8]> = pdus.iter().map(|(_, d)| d.as_slice()).collect();
            assert_eq!(data, [&b""[..], b"a", b"ab", b"abc", b"abcd", b"abcdefghi", b""]);
            assert!(deframer.is_between_pdus());
        }
    }
}

/// RFC 7143 7.8: every damaged bit is found, in header, data, padding and digest.
#[test]
fn damage_is_found() {
    let framer = Framer { header_digest: true, data_digest: true };
    let good = pdu(framer, b"hello");
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        let mut deframer = Deframer::new(8192, true);
        deframer.set_digests(true, true);
        let result = read(&mut deframer, &bad, 11);
        match (byte, &result) {
            // A damaged AHS length makes the header longer than the stream.
            (4, Ok(pdus)) => assert!(pdus.is_empty()),
            (0..52, _) => assert!(matches!(result, Err(FrameError::HeaderDigest { .. })), "{byte}"),
            _ => assert!(matches!(result, Err(FrameError::DataDigest { .. })), "{byte}"),
        }
    }
}

/// RFC 7143 13.1: padding of any value is taken, and is covered by the digest.
#[test]
fn padding_is_covered_by_the_digest() {
    let framer = Framer { header_digest: false, data_digest: true };
    let mut bytes = pdu(framer, b"hello");
    bytes[53..56].fill(0xaa);
    let digest = crc32c::crc32c(b"hello\xaa\xaa\xaa").to_le_bytes();
    bytes[56..60].copy_from_slice(&digest);
    let mut deframer = Deframer::new(8192, false);
    deframer.set_digests(false, true);
    assert_eq!(read(&mut deframer, &bytes, 7).map(|p| p[0].1.clone()), Ok(b"hello".to_vec()));
}

/// RFC 7143 13.12: a segment beyond the declared length ends the stream at its header.
#[test]
fn long_segment() {
    let mut bhs = [0; BHS_LEN];
    bhs[5..8].copy_from_slice(&[0, 0x20, 1]);
    let error = read(&mut Deframer::new(8192, false), &bhs, 48);
    assert_eq!(error, Err(FrameError::LongSegment { len: 8193, max: 8192 }));
    bhs[5..8].copy_from_slice(&[0xff; 3]);
    let error = read(&mut Deframer::new(8192, false), &bhs, 1);
    assert_eq!(error, Err(FrameError::LongSegment { len: 0xff_ffff, max: 8192 }));
}

/// RFC 7143 11.2: responses carry no AHS; requests may.
#[test]
fn additional_header_segments() {
    let mut bhs = [0; BHS_LEN];
    bhs[4] = 255;
    let mut deframer = Deframer::new(8192, false);
    assert_eq!(read(&mut deframer, &bhs, 48), Err(FrameError::UnexpectedAhs { len: 1020 }));
    let stream = [&bhs[..], &[7; 1020], &NopOut::default().to_bhs()].concat();
    for step in [1, 47, 48, 500, 5000] {
        let mut deframer = Deframer::new(8192, true);
        let mut at = 0;
        let mut headers = 0;
        for chunk in stream[..48 + 1020].chunks(step) {
            at = 0;
            headers += usize::from(deframer.next(chunk, &mut at).expect("good").is_some());
        }
        assert!(at > 0 && headers == 1);
        assert_eq!(deframer.ahs(), [7; 1020]);
        assert_eq!(read(&mut deframer, &stream[1068..], step).map(|p| p.len()), Ok(1));
        assert!(deframer.ahs().is_empty());
    }
}

/// A data digest error leaves the deframer at the next PDU, so that a target can reject only the one.
#[test]
fn goes_on_after_a_data_digest_error() {
    let framer = Framer { header_digest: false, data_digest: true };
    let mut stream = pdu(framer, b"bad!");
    stream[50] ^= 1;
    stream.extend(pdu(framer, b"good"));
    let mut deframer = Deframer::new(8192, false);
    deframer.set_digests(false, true);
    let mut at = 0;
    assert!(matches!(deframer.next(&stream, &mut at), Ok(Some(Item::Header(_)))));
    assert!(matches!(deframer.next(&stream, &mut at), Err(FrameError::DataDigest { .. })));
    assert_eq!(read(&mut deframer, &stream[at..], 9).map(|p| p[0].1.clone()), Ok(b"good".to_vec()));
}

proptest! {
    #[test]
    fn no_stream_panics(
        stream in prop::collection::vec(any::<u8>(), 0..400),
        step in 1usize..100,
        header: bool, data: bool, ahs: bool,
    ) {
        let mut deframer = Deframer::new(1 << 20, ahs);
        deframer.set_digests(header, data);
        let _ = read(&mut deframer, &stream, step);
    }

    #[test]
    fn payload_pieces_make_the_same_pdu(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..5000), 1..5),
        from: prop::sample::Index, header_digest: bool, data_digest: bool,
    ) {
        let framer = Framer { header_digest, data_digest };
        let whole = pieces.concat();
        let mut payload = Payload::new();
        for piece in pieces {
            payload.push(Bytes::from(piece));
        }
        let from = from.index(whole.len());
        let bhs = NopOut { data_len: (whole.len() - from) as u32, ..NopOut::default() }.to_bhs();
        let (mut a, mut b) = (TxQueue::new(), TxQueue::new());
        framer.put_payload(&mut a, &bhs, &payload, from, whole.len() - from);
        framer.put(&mut b, &bhs, &whole[from..]);
        prop_assert!(sent(&mut a) == sent(&mut b));
    }
}
