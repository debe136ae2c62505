//! Opcodes and code values of RFC 7143, with names for messages. Unknown values stay numbers.

/// Declares constants of a code space and a `name` function that keeps unknown values apart.
macro_rules! codes {
    ($(#[$doc:meta])* $module:ident { $( $(#[$item_doc:meta])* $name:ident = $value:literal, $text:literal; )* }) => {
        $(#[$doc])*
        pub mod $module {
            $( $(#[$item_doc])* #[doc = $text] pub const $name: u8 = $value; )*

            /// The standard's word for a value, `None` for values that it does not assign.
            #[must_use]
            pub const fn name(value: u8) -> Option<&'static str> {
                match value {
                    $( $name => Some($text), )*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Opcodes (RFC 7143 section 11.2.1.2).
    opcode {
        NOP_OUT = 0x00, "NOP-Out";
        SCSI_COMMAND = 0x01, "SCSI Command";
        TASK_MANAGEMENT_REQUEST = 0x02, "Task Management Function Request";
        LOGIN_REQUEST = 0x03, "Login Request";
        TEXT_REQUEST = 0x04, "Text Request";
        DATA_OUT = 0x05, "SCSI Data-Out";
        LOGOUT_REQUEST = 0x06, "Logout Request";
        SNACK_REQUEST = 0x10, "SNACK Request";
        NOP_IN = 0x20, "NOP-In";
        SCSI_RESPONSE = 0x21, "SCSI Response";
        TASK_MANAGEMENT_RESPONSE = 0x22, "Task Management Function Response";
        LOGIN_RESPONSE = 0x23, "Login Response";
        TEXT_RESPONSE = 0x24, "Text Response";
        DATA_IN = 0x25, "SCSI Data-In";
        LOGOUT_RESPONSE = 0x26, "Logout Response";
        R2T = 0x31, "Ready To Transfer";
        ASYNC_MESSAGE = 0x32, "Asynchronous Message";
        REJECT = 0x3f, "Reject";
    }
}

codes! {
    /// Task attributes (RFC 7143 section 11.3.1).
    attr {
        UNTAGGED = 0, "untagged";
        SIMPLE = 1, "simple";
        ORDERED = 2, "ordered";
        HEAD_OF_QUEUE = 3, "head of queue";
        ACA = 4, "ACA";
    }
}

codes! {
    /// Login stages (RFC 7143 section 11.12.3); 2 is reserved.
    stage {
        SECURITY = 0, "SecurityNegotiation";
        OPERATIONAL = 1, "LoginOperationalNegotiation";
        FULL_FEATURE = 3, "FullFeaturePhase";
    }
}

codes! {
    /// iSCSI response codes of a SCSI Response (RFC 7143 section 11.4.3); 0x80 and up are the vendor's.
    response {
        COMPLETED = 0x00, "command completed at target";
        TARGET_FAILURE = 0x01, "target failure";
    }
}

codes! {
    /// Task management functions (RFC 7143 section 11.5.1, RFC 7144 section 6.3).
    tmf {
        ABORT_TASK = 1, "ABORT TASK";
        ABORT_TASK_SET = 2, "ABORT TASK SET";
        CLEAR_ACA = 3, "CLEAR ACA";
        CLEAR_TASK_SET = 4, "CLEAR TASK SET";
        LOGICAL_UNIT_RESET = 5, "LOGICAL UNIT RESET";
        TARGET_WARM_RESET = 6, "TARGET WARM RESET";
        TARGET_COLD_RESET = 7, "TARGET COLD RESET";
        TASK_REASSIGN = 8, "TASK REASSIGN";
        QUERY_TASK = 9, "QUERY TASK";
        QUERY_TASK_SET = 10, "QUERY TASK SET";
        I_T_NEXUS_RESET = 11, "I_T NEXUS RESET";
        QUERY_ASYNC_EVENT = 12, "QUERY ASYNCHRONOUS EVENT";
    }
}

codes! {
    /// Task management responses (RFC 7143 section 11.6.1).
    tmf_response {
        COMPLETE = 0, "function complete";
        NO_TASK = 1, "task does not exist";
        NO_LUN = 2, "LUN does not exist";
        STILL_ALLEGIANT = 3, "task still allegiant";
        NO_REASSIGNMENT = 4, "task allegiance reassignment not supported";
        NOT_SUPPORTED = 5, "task management function not supported";
        NOT_AUTHORIZED = 6, "function authorization failed";
        SUCCEEDED = 7, "function succeeded";
        REJECTED = 255, "function rejected";
    }
}

codes! {
    /// Events of an Asynchronous Message (RFC 7143 section 11.9.1); 248 and up are the vendor's.
    async_event {
        SCSI = 0, "SCSI asynchronous event";
        LOGOUT = 1, "target requests logout";
        DROP_CONNECTION = 2, "target will drop a connection";
        DROP_SESSION = 3, "target will drop all connections of the session";
        NEGOTIATE = 4, "target requests parameter negotiation";
        TERMINATE_TASKS = 5, "tasks of a LUN are being terminated";
    }
}

codes! {
    /// Reasons of a Reject (RFC 7143 section 11.17.1).
    reject {
        DATA_DIGEST = 0x02, "data digest error";
        SNACK = 0x03, "SNACK reject";
        PROTOCOL_ERROR = 0x04, "protocol error";
        NOT_SUPPORTED = 0x05, "command not supported";
        TOO_MANY_IMMEDIATE = 0x06, "too many immediate commands";
        IN_PROGRESS = 0x07, "task in progress";
        INVALID_DATA_ACK = 0x08, "invalid data ACK";
        INVALID_FIELD = 0x09, "invalid PDU field";
        NO_RESOURCES = 0x0a, "out of resources for a long operation";
        NEGOTIATION_RESET = 0x0b, "negotiation reset";
        WAITING_FOR_LOGOUT = 0x0c, "waiting for logout";
    }
}

codes! {
    /// Reasons of a Logout Request (RFC 7143 section 11.14.1).
    logout {
        CLOSE_SESSION = 0, "close the session";
        CLOSE_CONNECTION = 1, "close the connection";
        REMOVE_FOR_RECOVERY = 2, "remove the connection for recovery";
    }
}

codes! {
    /// Responses of a Logout Response (RFC 7143 section 11.15.1).
    logout_response {
        CLOSED = 0, "closed successfully";
        NO_CID = 1, "CID not found";
        NO_RECOVERY = 2, "connection recovery is not supported";
        CLEANUP_FAILED = 3, "cleanup failed";
    }
}

/// Status class and detail of a Login Response (RFC 7143 section 11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub class: u8,
    /// Detail within the class.
    pub detail: u8,
}

impl LoginStatus {
    /// Login is going on.
    pub const SUCCESS: LoginStatus = LoginStatus::new(0, 0);
    /// Target moved temporarily.
    pub const MOVED_TEMPORARILY: LoginStatus = LoginStatus::new(1, 1);
    /// Target moved permanently.
    pub const MOVED_PERMANENTLY: LoginStatus = LoginStatus::new(1, 2);
    /// Initiator error.
    pub const INITIATOR_ERROR: LoginStatus = LoginStatus::new(2, 0);
    /// Authentication failed.
    pub const AUTHENTICATION: LoginStatus = LoginStatus::new(2, 1);
    /// Not allowed to use the target.
    pub const NOT_AUTHORIZED: LoginStatus = LoginStatus::new(2, 2);
    /// No such target.
    pub const NOT_FOUND: LoginStatus = LoginStatus::new(2, 3);
    /// Target removed.
    pub const REMOVED: LoginStatus = LoginStatus::new(2, 4);
    /// Version not supported.
    pub const VERSION: LoginStatus = LoginStatus::new(2, 5);
    /// Too many connections.
    pub const TOO_MANY_CONNECTIONS: LoginStatus = LoginStatus::new(2, 6);
    /// A parameter is missing.
    pub const MISSING_PARAMETER: LoginStatus = LoginStatus::new(2, 7);
    /// The target cannot include the connection in the session.
    pub const CANNOT_INCLUDE: LoginStatus = LoginStatus::new(2, 8);
    /// Session type not supported.
    pub const SESSION_TYPE: LoginStatus = LoginStatus::new(2, 9);
    /// No such session.
    pub const NO_SESSION: LoginStatus = LoginStatus::new(2, 0x0a);
    /// Request invalid during login.
    pub const INVALID_DURING_LOGIN: LoginStatus = LoginStatus::new(2, 0x0b);
    /// Target error.
    pub const TARGET_ERROR: LoginStatus = LoginStatus::new(3, 0);
    /// Service unavailable.
    pub const UNAVAILABLE: LoginStatus = LoginStatus::new(3, 1);
    /// Out of resources.
    pub const OUT_OF_RESOURCES: LoginStatus = LoginStatus::new(3, 2);

    /// From class and detail.
    #[must_use]
    pub const fn new(class: u8, detail: u8) -> LoginStatus {
        LoginStatus { class, detail }
    }

    /// The standard's word; details that it does not assign are named by their class.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.class, self.detail) {
            (0, _) => "success",
            (1, 1) => "target moved temporarily",
            (1, 2) => "target moved permanently",
            (1, _) => "redirection",
            (2, 1) => "authentication failure",
            (2, 2) => "authorization failure",
            (2, 3) => "target not found",
            (2, 4) => "target removed",
            (2, 5) => "unsupported version",
            (2, 6) => "too many connections",
            (2, 7) => "missing parameter",
            (2, 8) => "cannot include in session",
            (2, 9) => "session type not supported",
            (2, 10) => "session does not exist",
            (2, 11) => "invalid during login",
            (2, _) => "initiator error",
            (3, 1) => "service unavailable",
            (3, 2) => "out of resources",
            (3, _) => "target error",
            _ => "reserved status class",
        }
    }
}

impl core::fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}/{:02x} {}", self.class, self.detail, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 11.13.5: the class alone is enough to act on.
    #[test]
    fn login_status_names() {
        assert_eq!(LoginStatus::NOT_FOUND.to_string(), "02/03 target not found");
        assert_eq!(LoginStatus::new(2, 0x7f).to_string(), "02/7f initiator error");
        assert_eq!(LoginStatus::new(3, 0x55).name(), "target error");
        assert_eq!(LoginStatus::new(255, 255).name(), "reserved status class");
    }

    #[test]
    fn unknown_codes_have_no_name() {
        assert_eq!(opcode::name(0x27), None);
        assert_eq!(opcode::name(0x31), Some("Ready To Transfer"));
        assert_eq!(reject::name(1), None);
        assert_eq!(tmf_response::name(255), Some("function rejected"));
        assert_eq!(async_event::name(6), None);
        assert_eq!(stage::name(2), None);
    }
}
