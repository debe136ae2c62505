//! CmdSN window and StatSN (RFC 7143 section 4.2.2): serial arithmetic, nothing else.

use super::error::SessionError;
use crate::base::Serial;
use crate::wire::iscsi::response::Numbers;

/// The four numbers of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// CmdSN of the next non-immediate command.
    pub cmd_sn: Serial,
    /// The target has taken every command before this one.
    pub exp_cmd_sn: Serial,
    /// The last command that the target takes.
    pub max_cmd_sn: Serial,
    /// StatSN of the next status.
    pub exp_stat_sn: Serial,
}

impl Window {
    /// Closed, at `cmd_sn`.
    pub fn new(cmd_sn: Serial) -> Window {
        let max_cmd_sn = cmd_sn.minus(1);
        Window { cmd_sn, exp_cmd_sn: cmd_sn, max_cmd_sn, exp_stat_sn: Serial(0) }
    }

    /// How many non-immediate commands may be sent.
    #[inline]
    pub fn room(&self) -> u32 {
        if self.cmd_sn.le(self.max_cmd_sn) {
            self.max_cmd_sn.distance_from(self.cmd_sn).saturating_add(1)
        } else {
            0
        }
    }

    /// The CmdSN of a non-immediate command.
    #[inline]
    pub fn take(&mut self) -> Serial {
        assert!(self.cmd_sn.le(self.max_cmd_sn), "a command outside the window");
        let sn = self.cmd_sn;
        self.cmd_sn = sn.plus(1);
        sn
    }

    /// Takes over ExpCmdSN and MaxCmdSN of any PDU (section 4.2.2.1): a MaxCmdSN below ExpCmdSN - 1 makes
    /// both void, otherwise each counts if it is greater.
    #[inline]
    pub fn update(&mut self, numbers: &Numbers) -> Result<(), SessionError> {
        let (exp, max) = (numbers.exp_cmd_sn, numbers.max_cmd_sn);
        if max.lt(exp.minus(1)) {
            return Ok(());
        }
        if self.exp_cmd_sn.lt(exp) {
            if self.cmd_sn.lt(exp) {
                return Err(SessionError::Protocol("ExpCmdSN beyond the commands that were sent"));
            }
            self.exp_cmd_sn = exp;
        }
        if self.max_cmd_sn.lt(max) {
            self.max_cmd_sn = max;
        }
        Ok(())
    }

    /// Counts a status; a gap is a lost status, which ErrorRecoveryLevel 0 cannot repair (section 7.9).
    #[inline]
    pub fn status(&mut self, stat_sn: Serial) -> Result<(), SessionError> {
        if stat_sn != self.exp_stat_sn {
            let expected = self.exp_stat_sn.0;
            return Err(SessionError::StatSn { expected, received: stat_sn.0 });
        }
        self.exp_stat_sn = stat_sn.plus(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(exp: u32, max: u32) -> Numbers {
        Numbers { stat_sn: Serial(0), exp_cmd_sn: Serial(exp), max_cmd_sn: Serial(max) }
    }

    /// RFC 7143 4.2.2.1: window of one, of none, stale and void updates.
    #[test]
    fn updates() {
        let mut w = Window::new(Serial(10));
        assert_eq!(w.room(), 0);
        w.update(&numbers(10, 10)).expect("good");
        assert_eq!(w.room(), 1);
        assert_eq!(w.take(), Serial(10));
        assert_eq!(w.room(), 0);
        w.update(&numbers(11, 20)).expect("good");
        w.update(&numbers(10, 12)).expect("stale");
        assert_eq!((w.exp_cmd_sn, w.max_cmd_sn, w.room()), (Serial(11), Serial(20), 10));
        w.update(&numbers(40, 38)).expect("void: MaxCmdSN is ExpCmdSN - 2");
        assert_eq!((w.exp_cmd_sn, w.max_cmd_sn), (Serial(11), Serial(20)));
        w.update(&numbers(11, 0x8000_0008)).expect("as wide as it gets");
        assert_eq!(w.room(), 0x7fff_fffe);
        assert!(w.update(&numbers(16, 20)).is_err());
    }

    /// RFC 7143 4.2.2.1: across the wrap.
    #[test]
    fn wraps() {
        let mut w = Window::new(Serial(0xffff_fff0));
        w.update(&numbers(0xffff_fff0, 0x0f)).expect("good");
        assert_eq!(w.room(), 32);
        for i in 0..32 {
            assert_eq!(w.take(), Serial(0xffff_fff0).plus(i));
        }
        assert_eq!(w.room(), 0);
        w.update(&numbers(0x10, 0x2f)).expect("good");
        assert_eq!(w.room(), 32);
    }

    /// RFC 7143 4.2.2.2: gap, jump, repetition.
    #[test]
    fn stat_sn() {
        let mut w = Window::new(Serial(1));
        w.exp_stat_sn = Serial(0xffff_ffff);
        assert!(w.status(Serial(0xffff_ffff)).is_ok());
        assert!(w.status(Serial(0xffff_ffff)).is_err());
        assert!(w.status(Serial(1)).is_err());
        assert!(w.status(Serial(0x8000_0000)).is_err());
        assert!(w.status(Serial(0)).is_ok());
        assert_eq!(w.exp_stat_sn, Serial(1));
    }

    proptest! {
        /// Whatever a target sends, the window never shrinks nor passes 2^31.
        #[test]
        fn never_shrinks(start: u32, updates in prop::collection::vec((any::<u32>(), any::<u32>()), 0..50)) {
            let mut w = Window::new(Serial(start));
            for (exp, max) in updates {
                let before = w;
                let _ = w.update(&numbers(exp, max));
                prop_assert!(before.exp_cmd_sn.le(w.exp_cmd_sn));
                prop_assert!(before.max_cmd_sn.le(w.max_cmd_sn));
                if w.room() > 0 {
                    w.take();
                }
            }
        }
    }
}
