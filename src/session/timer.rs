//! Deadlines: a handful of instants, each with its reason. Finding the next one is O(1): an answer is
//! owed or not, whatever the number of commands.
//!
//! The rule of silence: while an answer is owed, some byte must come within the silence timeout; a ping
//! is sent well before that, and on an idle connection once per interval, so that a connection that
//! answers nothing is always found. Bytes that come while a ping is out need not be from after it: a kernel
//! was measured to send the rest of a stream 200 ms after its process had stopped. So they save a
//! connection whose ping is not answered in time only while they keep coming.

use super::error::{LoginError, SessionError};
use super::{End, Session, State};
use crate::base::{Duration, Instant};

/// Why a session wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The login must be done.
    Login,
    /// Time for a ping.
    Ping,
    /// The target must have sent something.
    Silence,
    /// A text exchange must have gone on.
    Text,
    /// The logout must be answered.
    Logout,
    /// The target asked for a logout.
    LogoutDue,
    /// A task management request is to be sent again.
    ManagementRetry,
    /// A task management request is not waited for any longer.
    Management,
}

impl Session {
    /// The next instant at which `handle_timeout` has something to do, and what.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<(Instant, Deadline)> {
        match self.state {
            State::Idle | State::Closed => return None,
            State::Login => return Some((self.phase_deadline, Deadline::Login)),
            State::LoggingOut => return Some((self.phase_deadline, Deadline::Logout)),
            State::FullFeature => {}
        }
        [
            self.liveness(),
            self.exchange.as_ref().map(|e| (e.deadline, Deadline::Text)),
            self.logout_due.map(|at| (at, Deadline::LogoutDue)),
            self.management_retry.map(|at| (at, Deadline::ManagementRetry)),
            self.management_deadline.map(|at| (at, Deadline::Management)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, why)) = self.poll_deadline() {
            if at > now {
                return;
            }
            match why {
                Deadline::Login => {
                    let error = LoginError::TimedOut(self.config.login_timeout);
                    self.end(End::Login(error));
                }
                Deadline::Ping => {
                    self.ping(now);
                    assert!(self.ping.is_some(), "a ping was due and not sent");
                }
                Deadline::Silence => {
                    let error = SessionError::Silence(self.config.silence_timeout);
                    self.end(End::Session(error));
                }
                Deadline::Text => {
                    let error = SessionError::TextTimedOut(self.config.login_timeout);
                    self.end(End::Session(error));
                }
                Deadline::Logout => {
                    let error = SessionError::LogoutTimedOut(self.config.logout_timeout);
                    self.end(End::Session(error));
                }
                Deadline::LogoutDue => self.logout(now),
                Deadline::ManagementRetry => self.retry_managements(),
                Deadline::Management => self.managements_unanswered(now),
            }
        }
    }

    /// Pings are no part of a discovery session (RFC 7143 section 4.3); its exchanges have deadlines.
    fn liveness(&self) -> Option<(Instant, Deadline)> {
        if self.config.is_discovery() {
            return None;
        }
        let quiet_since = if self.is_owed() {
            self.last_received.max(self.owed_since)
        } else {
            self.last_received
        };
        let silence = quiet_since + self.config.silence_timeout;
        if self.ping.is_some() {
            let timeout = self.config.silence_timeout;
            let unanswered = (self.pinged_at + timeout).max(quiet_since + timeout / 2);
            return Some((silence.min(unanswered), Deadline::Silence));
        }
        let wait = self.config.nop_interval.min(self.config.silence_timeout / 2);
        Some((quiet_since + wait.max(Duration::from_millis(1)), Deadline::Ping))
    }

    /// Whether the target owes an answer.
    fn is_owed(&self) -> bool {
        self.tasks.live() > 0 || self.ping.is_some() || self.exchange.is_some()
    }

    /// An answer will be owed from `now` on, if none is yet.
    #[inline]
    pub(super) fn owe(&mut self, now: Instant) {
        if !self.is_owed() {
            self.owed_since = now;
        }
    }
}
