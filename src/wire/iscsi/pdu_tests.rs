//! Literal bytes of every header, both ways; output buffers are pre-filled with 0xa5.

use super::*;
use crate::base::Serial;
use crate::wire::iscsi::request::*;
use crate::wire::iscsi::response::*;
use proptest::prelude::*;

/// Spaces and line ends are ignored.
fn bytes(hex: &str) -> Bhs {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect();
    bytes.try_into().expect("48 bytes")
}

macro_rules! both_ways {
    ($repr:expr, $ty:ty, $hex:literal) => {{
        let (repr, expected): ($ty, Bhs) = ($repr, bytes($hex));
        let mut out = [0xa5; BHS_LEN];
        repr.emit(&mut out);
        assert_eq!(out, expected);
        assert_eq!(repr.to_bhs(), expected);
        assert_eq!(<$ty>::parse(&expected), repr);
        assert_eq!(opcode(&expected), <$ty>::OPCODE);
        assert_eq!(data_len(&expected), repr.data_len);
    }};
}

const NUMBERS: Numbers =
    Numbers { stat_sn: Serial(0x11), exp_cmd_sn: Serial(0x22), max_cmd_sn: Serial(0x33) };

/// RFC 7143 11.18
#[test]
fn nop_out() {
    both_ways!(
        NopOut {
            immediate: true,
            lun: 0x0001_0000_0000_0000,
            task_tag: 0xffff_ffff,
            transfer_tag: 0x0102_0304,
            cmd_sn: Serial(5),
            exp_stat_sn: Serial(6),
            data_len: 0,
        },
        NopOut,
        "40800000 00000000 00010000 00000000 ffffffff 01020304 00000005 00000006
         00000000 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.3: a READ, a WRITE with all data immediate, one with unsolicited data to follow, and one
/// without data have the flags 0xc1, 0xa1, 0x21 and 0x81.
#[test]
fn scsi_command() {
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&[0x28, 0, 0, 0, 0, 9, 0, 0, 8, 0]);
    let read = ScsiCommand {
        last: true,
        read: true,
        attr: 1,
        lun: 0x4001_0000_0000_0000,
        task_tag: 0x0001_0007,
        expected_len: 4096,
        cmd_sn: Serial(0x10),
        exp_stat_sn: Serial(0x20),
        cdb,
        ..ScsiCommand::default()
    };
    both_ways!(
        read,
        ScsiCommand,
        "01c10000 00000000 40010000 00000000 00010007 00001000 00000010 00000020
         28000000 00090000 08000000 00000000"
    );
    let write = ScsiCommand { read: false, write: true, data_len: 0x1000, ..read };
    assert_eq!(write.to_bhs()[..8], [0x01, 0xa1, 0, 0, 0, 0, 0x10, 0]);
    assert_eq!(ScsiCommand { last: false, ..write }.to_bhs()[1], 0x21);
    assert_eq!(ScsiCommand { write: false, ..write }.to_bhs()[1], 0x81);
}

/// RFC 7143 11.5
#[test]
fn task_management_request() {
    both_ways!(
        TaskManagementRequest {
            immediate: true,
            function: 1,
            lun: 1,
            task_tag: 2,
            referenced_tag: 3,
            cmd_sn: Serial(4),
            exp_stat_sn: Serial(5),
            ref_cmd_sn: Serial(6),
            exp_data_sn: Serial(0),
            data_len: 0,
        },
        TaskManagementRequest,
        "42810000 00000000 00000000 00000001 00000002 00000003 00000004 00000005
         00000006 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.12
#[test]
fn login_request() {
    both_ways!(
        LoginRequest {
            immediate: true,
            transit: true,
            more: false,
            current_stage: 1,
            next_stage: 3,
            version_max: 0,
            version_min: 0,
            isid: [0x40, 0, 1, 0x37, 0, 2],
            tsih: 0,
            task_tag: 9,
            cid: 1,
            cmd_sn: Serial(0xffff_ffff),
            exp_stat_sn: Serial(7),
            data_len: 300,
        },
        LoginRequest,
        "43870000 0000012c 40000137 00020000 00000009 00010000 ffffffff 00000007
         00000000 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.10
#[test]
fn text_request() {
    both_ways!(
        TextRequest {
            immediate: true,
            last: true,
            more: false,
            lun: 0,
            task_tag: 1,
            transfer_tag: 0xffff_ffff,
            cmd_sn: Serial(2),
            exp_stat_sn: Serial(3),
            data_len: 16,
        },
        TextRequest,
        "44800000 00000010 00000000 00000000 00000001 ffffffff 00000002 00000003
         00000000 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.7
#[test]
fn data_out() {
    both_ways!(
        DataOut {
            last: true,
            lun: 1,
            task_tag: 2,
            transfer_tag: 3,
            exp_stat_sn: Serial(4),
            data_sn: Serial(5),
            offset: 0x2000,
            data_len: 0x1_0000,
        },
        DataOut,
        "05800000 00010000 00000000 00000001 00000002 00000003 00000000 00000004
         00000000 00000005 00002000 00000000"
    );
}

/// RFC 7143 11.14
#[test]
fn logout_request() {
    both_ways!(
        LogoutRequest {
            immediate: true,
            reason: 1,
            task_tag: 2,
            cid: 3,
            cmd_sn: Serial(4),
            exp_stat_sn: Serial(5),
            data_len: 0,
        },
        LogoutRequest,
        "46810000 00000000 00000000 00000000 00000002 00030000 00000004 00000005
         00000000 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.16
#[test]
fn snack_request() {
    both_ways!(
        SnackRequest {
            kind: 1,
            lun: 2,
            task_tag: 3,
            transfer_tag: 4,
            exp_stat_sn: Serial(5),
            begin: 6,
            run: 7,
            data_len: 0,
        },
        SnackRequest,
        "10810000 00000000 00000000 00000002 00000003 00000004 00000000 00000005
         00000000 00000000 00000006 00000007"
    );
}

/// RFC 7143 11.19
#[test]
fn nop_in() {
    both_ways!(
        NopIn { lun: 1, task_tag: 0xffff_ffff, transfer_tag: 2, numbers: NUMBERS, data_len: 0 },
        NopIn,
        "20800000 00000000 00000000 00000001 ffffffff 00000002 00000011 00000022
         00000033 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.4
#[test]
fn scsi_response() {
    both_ways!(
        ScsiResponse {
            bidi_overflow: false,
            bidi_underflow: false,
            overflow: false,
            underflow: true,
            response: 0,
            status: 2,
            task_tag: 7,
            snack_tag: 0,
            numbers: NUMBERS,
            exp_data_sn: Serial(4),
            bidi_residual: 0,
            residual: 512,
            data_len: 20,
        },
        ScsiResponse,
        "21820002 00000014 00000000 00000000 00000007 00000000 00000011 00000022
         00000033 00000004 00000000 00000200"
    );
    let all = ScsiResponse::parse(&bytes(
        "219e0000 00000000 00000000 00000000 00000007 00000000 00000011 00000022
         00000033 00000004 00000000 00000200",
    ));
    assert!(all.bidi_overflow && all.bidi_underflow && all.overflow && all.underflow);
}

/// RFC 7143 11.6
#[test]
fn task_management_response() {
    both_ways!(
        TaskManagementResponse { response: 255, task_tag: 7, numbers: NUMBERS, data_len: 0 },
        TaskManagementResponse,
        "2280ff00 00000000 00000000 00000000 00000007 00000000 00000011 00000022
         00000033 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.13
#[test]
fn login_response() {
    both_ways!(
        LoginResponse {
            transit: false,
            more: true,
            current_stage: 1,
            next_stage: 0,
            version_max: 0,
            version_active: 0,
            isid: [1, 2, 3, 4, 5, 6],
            tsih: 0x0708,
            task_tag: 9,
            numbers: NUMBERS,
            status_class: 2,
            status_detail: 1,
            data_len: 1,
        },
        LoginResponse,
        "23440000 00000001 01020304 05060708 00000009 00000000 00000011 00000022
         00000033 02010000 00000000 00000000"
    );
}

/// RFC 7143 11.11
#[test]
fn text_response() {
    both_ways!(
        TextResponse {
            last: false,
            more: true,
            lun: 1,
            task_tag: 2,
            transfer_tag: 3,
            numbers: NUMBERS,
            data_len: 8192,
        },
        TextResponse,
        "24400000 00002000 00000000 00000001 00000002 00000003 00000011 00000022
         00000033 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.7
#[test]
fn data_in() {
    both_ways!(
        DataIn {
            last: true,
            acknowledge: false,
            overflow: false,
            underflow: true,
            has_status: true,
            status: 0,
            lun: 0,
            task_tag: 2,
            transfer_tag: 0xffff_ffff,
            numbers: NUMBERS,
            data_sn: Serial(3),
            offset: 4096,
            residual: 512,
            data_len: 3584,
        },
        DataIn,
        "25830000 00000e00 00000000 00000000 00000002 ffffffff 00000011 00000022
         00000033 00000003 00001000 00000200"
    );
}

/// RFC 7143 11.8
#[test]
fn r2t() {
    both_ways!(
        R2t {
            lun: 1,
            task_tag: 2,
            transfer_tag: 3,
            numbers: NUMBERS,
            r2t_sn: Serial(4),
            offset: 0x1_0000,
            desired_len: 0x4_0000,
            data_len: 0,
        },
        R2t,
        "31800000 00000000 00000000 00000001 00000002 00000003 00000011 00000022
         00000033 00000004 00010000 00040000"
    );
}

/// RFC 7143 11.9
#[test]
fn async_message() {
    both_ways!(
        AsyncMessage {
            lun: 1,
            task_tag: 0xffff_ffff,
            numbers: NUMBERS,
            event: 2,
            vendor_code: 0,
            parameter1: 1,
            parameter2: 5,
            parameter3: 20,
            data_len: 0,
        },
        AsyncMessage,
        "32800000 00000000 00000000 00000001 ffffffff 00000000 00000011 00000022
         00000033 02000001 00050014 00000000"
    );
}

/// RFC 7143 11.17
#[test]
fn reject() {
    both_ways!(
        Reject {
            reason: 9,
            task_tag: 0xffff_ffff,
            numbers: NUMBERS,
            data_sn: Serial(0),
            data_len: 48,
        },
        Reject,
        "3f800900 00000030 00000000 00000000 ffffffff 00000000 00000011 00000022
         00000033 00000000 00000000 00000000"
    );
}

/// RFC 7143 11.15
#[test]
fn logout_response() {
    both_ways!(
        LogoutResponse {
            response: 3,
            task_tag: 1,
            numbers: NUMBERS,
            time2wait: 5,
            time2retain: 20,
            data_len: 0,
        },
        LogoutResponse,
        "26800300 00000000 00000000 00000000 00000001 00000000 00000011 00000022
         00000033 00000000 00050014 00000000"
    );
}

macro_rules! any_bytes {
    ($bhs:ident; $($ty:ty),*) => {$(
        let repr = <$ty>::parse(&$bhs);
        prop_assert_eq!(<$ty>::parse(&repr.to_bhs()), repr);
    )*};
}

proptest! {
    /// Reserved bits are ignored: what was parsed comes back the same without them.
    #[test]
    fn any_header_parses(head: [u8; 32], tail: [u8; 16]) {
        let bhs: Bhs = [&head[..], &tail[..]].concat().try_into().expect("48 bytes");
        any_bytes!(bhs; NopOut, ScsiCommand, TaskManagementRequest, LoginRequest, TextRequest, DataOut,
            LogoutRequest, SnackRequest, NopIn, ScsiResponse, TaskManagementResponse, LoginResponse,
            TextResponse, DataIn, R2t, AsyncMessage, Reject, LogoutResponse);
    }
}
