//! Names of the keys of RFC 7143 sections 12 and 13 and RFC 7144.

macro_rules! keys {
    ($($name:ident = $text:literal),* $(,)?) => {
        $( #[doc = concat!("`", $text, "`")] pub const $name: &str = $text; )*

        /// Every key that RFC 7143 and RFC 7144 define, the obsolete ones included.
        pub const DEFINED: &[&str] = &[$($text),*];
    };
}

keys! {
    AUTH_METHOD = "AuthMethod",
    CHAP_A = "CHAP_A",
    CHAP_C = "CHAP_C",
    CHAP_I = "CHAP_I",
    CHAP_N = "CHAP_N",
    CHAP_R = "CHAP_R",
    DATA_DIGEST = "DataDigest",
    DATA_PDU_IN_ORDER = "DataPDUInOrder",
    DATA_SEQUENCE_IN_ORDER = "DataSequenceInOrder",
    DEFAULT_TIME2RETAIN = "DefaultTime2Retain",
    DEFAULT_TIME2WAIT = "DefaultTime2Wait",
    ERROR_RECOVERY_LEVEL = "ErrorRecoveryLevel",
    FIRST_BURST_LENGTH = "FirstBurstLength",
    HEADER_DIGEST = "HeaderDigest",
    IF_MARKER = "IFMarker",
    IF_MARK_INT = "IFMarkInt",
    IMMEDIATE_DATA = "ImmediateData",
    INITIAL_R2T = "InitialR2T",
    INITIATOR_ALIAS = "InitiatorAlias",
    INITIATOR_NAME = "InitiatorName",
    MAX_BURST_LENGTH = "MaxBurstLength",
    MAX_CONNECTIONS = "MaxConnections",
    MAX_OUTSTANDING_R2T = "MaxOutstandingR2T",
    MAX_RECV_DATA_SEGMENT_LENGTH = "MaxRecvDataSegmentLength",
    OF_MARKER = "OFMarker",
    OF_MARK_INT = "OFMarkInt",
    PROTOCOL_LEVEL = "iSCSIProtocolLevel",
    SEND_TARGETS = "SendTargets",
    SESSION_TYPE = "SessionType",
    TARGET_ADDRESS = "TargetAddress",
    TARGET_ALIAS = "TargetAlias",
    TARGET_NAME = "TargetName",
    TARGET_PORTAL_GROUP_TAG = "TargetPortalGroupTag",
    TASK_REPORTING = "TaskReporting",
    X_NODE_ARCHITECTURE = "X#NodeArchitecture",
}

/// `Yes`
pub const YES: &str = "Yes";
/// `No`
pub const NO: &str = "No";
/// `None`
pub const NONE: &str = "None";
/// `CRC32C`
pub const CRC32C: &str = "CRC32C";
/// `CHAP`
pub const CHAP: &str = "CHAP";
/// `Reject` (RFC 7143 section 6.2)
pub const REJECT: &str = "Reject";
/// `Irrelevant` (RFC 7143 section 6.2)
pub const IRRELEVANT: &str = "Irrelevant";
/// `NotUnderstood` (RFC 7143 section 6.2)
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
