//! Checks of one request against what was negotiated: flags, abilities, read-only, range. One total
//! function, so that the order of checks stands in one place.
//!
//! Not here: alignment. Requests that are no multiple of the block size are passed on, because clients that
//! never asked for block sizes must be served.

use crate::limits::NBD_PAYLOAD_MAX;
use crate::wire::nbd::request::RequestHeader;
use crate::wire::nbd::{Command, NbdError, command_flags, transmission_flags};

/// What was agreed on in the handshake.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Negotiated {
    /// Size of the export in bytes, fixed for the connection's life.
    pub(super) size: u64,
    /// [`transmission_flags`] as told to the client.
    pub(super) flags: u16,
    /// READ and BLOCK_STATUS are answered by chunks.
    pub(super) structured: bool,
    /// `base:allocation` was selected for this export.
    pub(super) base_allocation: bool,
}

impl Negotiated {
    fn offers(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A request that passed the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Read {
        df: bool,
    },
    Write,
    Flush,
    Trim,
    WriteZeroes {
        no_hole: bool,
        fast: bool,
    },
    Cache,
    BlockStatus {
        one: bool,
    },
    /// A range of no bytes: done without touching the device.
    Nothing,
}

/// Sections *Command flags*, *Request types*, *Error values*. DISC is handled before.
pub(super) fn check(agreed: &Negotiated, header: &RequestHeader) -> Result<Action, NbdError> {
    let has = |flag: u16| header.flags & flag != 0;
    let (action, flags) = match header.command {
        Command::READ => {
            let df = if agreed.structured { command_flags::DF } else { 0 };
            (Action::Read { df: has(command_flags::DF) }, df)
        }
        Command::WRITE => (Action::Write, 0),
        Command::FLUSH => (Action::Flush, 0),
        Command::TRIM => (Action::Trim, 0),
        Command::CACHE => (Action::Cache, 0),
        Command::WRITE_ZEROES => {
            let fast = agreed.offers(transmission_flags::SEND_FAST_ZERO);
            let fast = if fast { command_flags::FAST_ZERO } else { 0 };
            let no_hole = has(command_flags::NO_HOLE);
            let action = Action::WriteZeroes { no_hole, fast: has(command_flags::FAST_ZERO) };
            (action, fast | command_flags::NO_HOLE)
        }
        Command::BLOCK_STATUS => {
            (Action::BlockStatus { one: has(command_flags::REQ_ONE) }, command_flags::REQ_ONE)
        }
        Command(_) => return Err(NbdError::Invalid),
    };
    // FUA is offered always, and then it is valid on every command.
    if header.flags & !(flags | command_flags::FUA) != 0 {
        return Err(NbdError::Invalid);
    }
    check_ability(agreed, action)?;
    check_range(agreed.size, header, action)
}

fn check_ability(agreed: &Negotiated, action: Action) -> Result<(), NbdError> {
    let writes = matches!(action, Action::Write | Action::Trim | Action::WriteZeroes { .. });
    if writes && agreed.offers(transmission_flags::READ_ONLY) {
        return Err(NbdError::Permission);
    }
    let offered = match action {
        Action::Trim => agreed.offers(transmission_flags::SEND_TRIM),
        Action::WriteZeroes { .. } => agreed.offers(transmission_flags::SEND_WRITE_ZEROES),
        Action::Cache => agreed.offers(transmission_flags::SEND_CACHE),
        Action::BlockStatus { .. } => agreed.base_allocation,
        Action::Read { .. } | Action::Write | Action::Flush | Action::Nothing => true,
    };
    if offered { Ok(()) } else { Err(NbdError::Invalid) }
}

fn check_range(size: u64, header: &RequestHeader, action: Action) -> Result<Action, NbdError> {
    let beyond = match action {
        Action::Flush => {
            let empty = header.offset == 0 && header.len == 0;
            return if empty { Ok(action) } else { Err(NbdError::Invalid) };
        }
        Action::Write | Action::WriteZeroes { .. } => NbdError::NoSpace,
        Action::Read { .. }
        | Action::Trim
        | Action::Cache
        | Action::BlockStatus { .. }
        | Action::Nothing => NbdError::Invalid,
    };
    let payload = matches!(action, Action::Read { .. } | Action::Write);
    if payload && header.len > NBD_PAYLOAD_MAX {
        return Err(NbdError::Invalid);
    }
    let end = header.offset.checked_add(header.len.into());
    if end.is_none_or(|end| end > size) {
        return Err(beyond);
    }
    match (header.len, action) {
        (0, Action::BlockStatus { .. }) => Err(NbdError::Invalid),
        (0, _) => Ok(Action::Nothing),
        _ => Ok(action),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nbd::command_flags::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
    use crate::wire::nbd::transmission_flags as flag;
    use NbdError::{Invalid, NoSpace, Permission};
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 30;
    const FULL: Negotiated =
        Negotiated { size: SIZE, flags: 0x0ded, structured: true, base_allocation: true };
    const COMMANDS: [Command; 7] = [
        Command::READ,
        Command::WRITE,
        Command::FLUSH,
        Command::TRIM,
        Command::CACHE,
        Command::WRITE_ZEROES,
        Command::BLOCK_STATUS,
    ];

    fn run(agreed: Negotiated, command: Command, flags: u16, offset: u64, len: u32) -> Outcome {
        check(&agreed, &RequestHeader { flags, command, cookie: 0, offset, len })
    }
    type Outcome = Result<Action, NbdError>;

    fn without(flag: u16) -> Negotiated {
        Negotiated { flags: FULL.flags & !flag, ..FULL }
    }

    /// Section *Command flags*: which flag goes with which command.
    #[test]
    fn command_flags_by_command() {
        for command in COMMANDS {
            let len = if command == Command::FLUSH { 0 } else { 512 };
            for bit in 0..16 {
                let flag = 1 << bit;
                let fits = match flag {
                    FUA => true,
                    NO_HOLE | FAST_ZERO => command == Command::WRITE_ZEROES,
                    DF => command == Command::READ,
                    REQ_ONE => command == Command::BLOCK_STATUS,
                    _ => false,
                };
                let outcome = run(FULL, command, flag, 0, len);
                assert_eq!(outcome.is_ok(), fits, "{command:?} {flag:#x} {outcome:?}");
                assert!(fits || outcome == Err(Invalid));
            }
        }
        let simple = Negotiated { structured: false, ..FULL };
        assert_eq!(run(simple, Command::READ, DF, 0, 512), Err(Invalid));
        let slow = without(flag::SEND_FAST_ZERO);
        assert_eq!(run(slow, Command::WRITE_ZEROES, FAST_ZERO, 0, 512), Err(Invalid));
    }

    /// Section *Request types*: a command that was not offered.
    #[test]
    fn commands_need_their_flag() {
        for (command, flag) in [
            (Command::TRIM, flag::SEND_TRIM),
            (Command::WRITE_ZEROES, flag::SEND_WRITE_ZEROES),
            (Command::CACHE, flag::SEND_CACHE),
        ] {
            assert_eq!(run(without(flag), command, 0, 0, 512), Err(Invalid));
        }
        let no_context = Negotiated { base_allocation: false, ..FULL };
        assert_eq!(run(no_context, Command::BLOCK_STATUS, 0, 0, 512), Err(Invalid));
        for command in [8, 9, 0x1234, 0xffff].map(Command) {
            assert_eq!(run(FULL, command, 0, 0, 512), Err(Invalid));
        }
    }

    /// Section *Error values*: EPERM on a read-only export, for every write-type command.
    #[test]
    fn read_only() {
        let agreed = Negotiated { flags: 0x058f, ..FULL };
        for command in [Command::WRITE, Command::TRIM, Command::WRITE_ZEROES] {
            assert_eq!(run(agreed, command, 0, 0, 512), Err(Permission));
        }
        for command in [Command::READ, Command::CACHE, Command::BLOCK_STATUS] {
            assert!(run(agreed, command, 0, 0, 512).is_ok());
        }
        assert_eq!(run(agreed, Command::FLUSH, 0, 0, 0), Ok(Action::Flush));
    }

    /// Section *Error values*: ranges beyond the end, also where offset plus length wraps.
    #[test]
    fn ranges() {
        for command in COMMANDS.into_iter().filter(|c| *c != Command::FLUSH) {
            let writes = matches!(command, Command::WRITE | Command::WRITE_ZEROES);
            let expect = Err(if writes { NoSpace } else { Invalid });
            for (offset, len) in [
                (SIZE - 511, 512),
                (SIZE, 1),
                (1 << 63, 512),
                (u64::MAX - 4095, 8192),
                (SIZE + 1, 0),
            ] {
                assert_eq!(run(FULL, command, 0, offset, len), expect, "{command:?} {offset}");
            }
            assert!(run(FULL, command, 0, SIZE - 512, 512).is_ok());
            assert!(run(FULL, command, 0, 1, 3).is_ok(), "unaligned requests are passed on");
        }
    }

    /// Section *Request types*: no bytes, no action, no disconnect.
    #[test]
    fn zero_lengths() {
        for command in COMMANDS {
            for offset in [0, SIZE] {
                let expect = match command {
                    Command::FLUSH if offset == 0 => Ok(Action::Flush),
                    Command::FLUSH | Command::BLOCK_STATUS => Err(Invalid),
                    _ => Ok(Action::Nothing),
                };
                assert_eq!(run(FULL, command, 0, offset, 0), expect, "{command:?}");
            }
        }
        assert_eq!(run(FULL, Command::FLUSH, 0, 0, 512), Err(Invalid));
    }

    /// Section *Block size constraints*: payloads up to 32 MiB, effects of any length.
    #[test]
    fn lengths() {
        let agreed = Negotiated { size: 1 << 40, ..FULL };
        for command in [Command::READ, Command::WRITE] {
            assert!(run(agreed, command, 0, 0, 1 << 25).is_ok());
            assert_eq!(run(agreed, command, 0, 0, (1 << 25) + 1), Err(Invalid));
        }
        for command in [Command::TRIM, Command::WRITE_ZEROES, Command::CACHE, Command::BLOCK_STATUS]
        {
            assert!(run(agreed, command, 0, 0, u32::MAX).is_ok());
        }
    }

    proptest! {
        /// What passes lies inside the export.
        #[test]
        fn nothing_outside_passes(
            command in 0u16..10, flags: u16, offset: u64, len: u32, size: u64, agreed_flags: u16,
        ) {
            let agreed = Negotiated { size, flags: agreed_flags, ..FULL };
            if run(agreed, Command(command), flags, offset, len).is_ok() {
                prop_assert!(u128::from(offset) + u128::from(len) <= u128::from(size));
            }
        }
    }
}
