//! Why a login or a session ended: total, by blame, worded for administrators. Text that came from the
//! target is clipped and escaped before it gets in here.

use crate::base::{Blame, Duration};
use crate::wire::iscsi::codes::{self, LoginStatus};
use crate::wire::iscsi::text::TextError;
use crate::wire::iscsi::{FrameError, TargetAddress};
use thiserror::Error;

/// Why the TCP connection is gone, in the driver's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The target closed it.
    #[error("the target closed the connection")]
    Eof,
    /// The socket failed with this errno.
    #[error("{}", words(*.0))]
    Errno(i32),
    /// This side gave it up.
    #[error("given up by this side")]
    GivenUp,
}

/// The text of an errno, without its number and without a capital in the middle of a sentence.
fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What authentication failed on (RFC 7143 sections 9.2 and 12.1).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// AuthMethod outside what was offered.
    #[error("the target answered AuthMethod={0}, which was not offered")]
    Method(String),
    /// A target that goes on without having authenticated anybody.
    #[error("the target went on without CHAP, which is configured")]
    Skipped,
    /// A key that the step does not have, or lacks.
    #[error("{0}")]
    Step(&'static str),
    /// CHAP_A outside what was offered.
    #[error("the target chose CHAP_A={0}, which was not offered")]
    Algorithm(String),
    /// A value of the wrong form or length.
    #[error("bad value for {0}")]
    Value(&'static str),
    /// The target sent a challenge that is ours.
    #[error("the target sent back a challenge of ours (reflection)")]
    Reflection,
    /// The target's response was made with our secret.
    #[error("the target answered our challenge with our own secret")]
    OwnSecret,
    /// The target's name differs.
    #[error("the target calls itself {0:?}, which is not the configured mutual_user")]
    Name(String),
    /// The target's response is wrong.
    #[error("the target's CHAP response is wrong: mutual secret differs")]
    Response,
}

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoginError {
    /// The target is elsewhere.
    #[error("redirected to {address} ({})", if *.permanent { "permanently" } else { "temporarily" })]
    Redirect {
        /// Where to.
        address: TargetAddress,
        /// Later logins should go there at once.
        permanent: bool,
    },
    /// A redirect without a usable address.
    #[error("redirected to {0:?}, which is not an address")]
    BadRedirect(String),
    /// The target refused.
    #[error("refused by the target: {}", LoginStatus::new(*.class, *.detail))]
    Status {
        /// Status class: 2 blames us, 3 the target.
        class: u8,
        /// Status detail.
        detail: u8,
    },
    /// Authentication failed on our side of it.
    #[error("authentication failed: {0}")]
    Authentication(#[from] AuthenticationError),
    /// The target answered with another portal group than expected.
    #[error("portal group tag {found}, expected {expected}")]
    PortalGroup {
        /// From discovery or configuration.
        expected: u16,
        /// What came.
        found: u16,
    },
    /// A value that the negotiation rules do not allow.
    #[error("{key}={value:?}: {why}")]
    Negotiation {
        /// Key.
        key: String,
        /// Value that came.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Both sides are right and cannot work together.
    #[error("{0}")]
    Incompatible(&'static str),
    /// Against the login protocol.
    #[error("login protocol error: {0}")]
    Protocol(&'static str),
    /// A PDU that has no place in a login.
    #[error("unexpected {} (opcode {opcode:#04x}) during login", name(*.opcode))]
    UnexpectedPdu {
        /// Opcode.
        opcode: u8,
    },
    /// Bytes that are no PDU.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Text that is no text.
    #[error("login text: {0}")]
    Text(#[from] TextError),
    /// No end within the login timeout.
    #[error("no login within {0:?}")]
    TimedOut(Duration),
    /// What was configured cannot be sent.
    #[error("{0}")]
    Config(&'static str),
    /// The connection ended.
    #[error("{0} during login")]
    Closed(CloseReason),
}

impl LoginError {
    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            LoginError::Redirect { .. } | LoginError::Closed(_) | LoginError::TimedOut(_) => {
                Blame::Io
            }
            LoginError::Status { class: 2, detail: 5 | 8 | 9 } | LoginError::Incompatible(_) => {
                Blame::Incompatible
            }
            LoginError::Status { class: 2, detail: 6 } => Blame::Io,
            LoginError::Status { class: 2, .. }
            | LoginError::Authentication(_)
            | LoginError::Config(_)
            | LoginError::PortalGroup { .. } => Blame::Config,
            LoginError::Status { class: 3, .. } => Blame::Io,
            LoginError::Status { .. }
            | LoginError::BadRedirect(_)
            | LoginError::Negotiation { .. }
            | LoginError::Protocol(_)
            | LoginError::UnexpectedPdu { .. } => Blame::TargetMisbehaved,
            LoginError::Frame(_) | LoginError::Text(_) => Blame::Malformed,
        }
    }
}

/// Why a session in full feature phase ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// Bytes that are no PDU, or a digest error.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A PDU whose form is wrong (RFC 7143 section 7.7).
    #[error("format error: {0}")]
    Format(&'static str),
    /// A PDU against the protocol (RFC 7143 section 7.12).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// An opcode that a target does not send.
    #[error("unexpected {} (opcode {opcode:#04x})", name(*.opcode))]
    UnexpectedPdu {
        /// Opcode.
        opcode: u8,
    },
    /// A status was lost or repeated.
    #[error("StatSN {received:#x}, expected {expected:#x}")]
    StatSn {
        /// ExpStatSN.
        expected: u32,
        /// What came.
        received: u32,
    },
    /// The target rejected a PDU of ours.
    #[error(
        "the target rejected a {}: {} ({reason:#04x})", name(*.opcode),
        codes::reject::name(*.reason).unwrap_or("reserved reason")
    )]
    Rejected {
        /// Reason.
        reason: u8,
        /// Opcode of the rejected PDU as the target showed it.
        opcode: u8,
    },
    /// No byte came in this time while an answer was owed.
    #[error("no answer for {0:?}, pings included")]
    Silence(Duration),
    /// The target announced that it drops the connection or session.
    #[error("the target announced that it drops the connection (Time2Wait {} s)", .time2wait.as_secs())]
    Dropped {
        /// Time to wait before the next login.
        time2wait: Duration,
    },
    /// Logged out, as asked for.
    #[error("logged out")]
    LoggedOut,
    /// The target answered the logout with a failure.
    #[error(
        "logout answered {response}: {}",
        codes::logout_response::name(*.response).unwrap_or("reserved")
    )]
    LogoutFailed {
        /// Response.
        response: u8,
        /// Time to wait before the next login.
        time2wait: Duration,
    },
    /// The target did not answer the logout in time.
    #[error("no answer to the logout within {0:?}")]
    LogoutTimedOut(Duration),
    /// A text exchange that cannot go on.
    #[error("discovery: {0}")]
    Text(&'static str),
    /// A text exchange without an answer.
    #[error("no answer to a text request within {0:?}")]
    TextTimedOut(Duration),
    /// The connection ended.
    #[error("{0}")]
    Transport(CloseReason),
}

impl SessionError {
    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            SessionError::Frame(_) | SessionError::Format(_) => Blame::Malformed,
            SessionError::Protocol(_)
            | SessionError::UnexpectedPdu { .. }
            | SessionError::StatSn { .. }
            | SessionError::Rejected { .. }
            | SessionError::Text(_) => Blame::TargetMisbehaved,
            SessionError::Silence(_)
            | SessionError::Dropped { .. }
            | SessionError::LoggedOut
            | SessionError::LogoutFailed { .. }
            | SessionError::LogoutTimedOut(_)
            | SessionError::TextTimedOut(_)
            | SessionError::Transport(_) => Blame::Io,
        }
    }

    /// How long the target wants to be left alone, where it said so.
    #[must_use]
    pub fn time2wait(&self) -> Option<Duration> {
        match self {
            SessionError::Dropped { time2wait } | SessionError::LogoutFailed { time2wait, .. } => {
                Some(*time2wait)
            }
            _ => None,
        }
    }
}

fn name(opcode: u8) -> &'static str {
    codes::opcode::name(opcode).unwrap_or("PDU")
}

/// Text from a target for messages: escaped, at most 80 characters.
#[must_use]
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 11.13.5: what waiting may cure is tried again soon, what somebody must change is not. A class
    /// is enough; unknown details count as the rest of their class.
    #[test]
    fn slow_or_soon() {
        let blame = |class, detail| LoginError::Status { class, detail }.blame();
        for detail in [0, 1, 2, 3, 4, 7, 0x0a, 0x0b, 0x7f] {
            assert_eq!(blame(2, detail), Blame::Config, "02/{detail:02x}");
        }
        for detail in [5, 8, 9] {
            assert_eq!(blame(2, detail), Blame::Incompatible, "02/{detail:02x}");
        }
        for (class, detail) in [(2, 6), (3, 0), (3, 1), (3, 2), (3, 0x55)] {
            assert_eq!(blame(class, detail), Blame::Io, "{class:02x}/{detail:02x}");
        }
        assert_eq!(LoginError::BadRedirect(String::new()).blame(), Blame::TargetMisbehaved);
    }

    #[test]
    fn messages_for_administrators() {
        let status = LoginError::Status { class: 2, detail: 3 };
        assert_eq!(status.to_string(), "refused by the target: 02/03 target not found");
        assert_eq!(status.blame(), Blame::Config);
        let redirect = LoginError::Redirect {
            address: "10.0.0.1:5003".parse().expect("an address"),
            permanent: false,
        };
        assert_eq!(redirect.to_string(), "redirected to 10.0.0.1:5003 (temporarily)");
        assert_eq!(
            SessionError::Rejected { reason: 9, opcode: 1 }.to_string(),
            "the target rejected a SCSI Command: invalid PDU field (0x09)"
        );
        assert_eq!(
            SessionError::UnexpectedPdu { opcode: 0x27 }.to_string(),
            "unexpected PDU (opcode 0x27)"
        );
        assert_eq!(shown("a\u{1b}[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(shown(&"x".repeat(500)).len(), 80);
    }
}
