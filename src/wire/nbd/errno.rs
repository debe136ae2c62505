//! The eight error values that NBD knows (section *Error values*). No other number is ever sent; one that
//! comes from a server is read as EINVAL, which is what other clients do.

/// Why a request failed, as the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u32)]
pub enum NbdError {
    /// EPERM: a write to a read-only export.
    #[error("EPERM (read-only)")]
    Permission = 1,
    /// EIO: medium, hardware, no path.
    #[error("EIO (input/output error)")]
    Io = 5,
    /// ENOMEM: servers should avoid it.
    #[error("ENOMEM (out of memory)")]
    NoMemory = 12,
    /// EINVAL: bad flags, a bad range, an unknown command.
    #[error("EINVAL (invalid request)")]
    Invalid = 22,
    /// ENOSPC: a write beyond the end, or a thin pool that is full.
    #[error("ENOSPC (no space)")]
    NoSpace = 28,
    /// EOVERFLOW: too long to be served in one piece.
    #[error("EOVERFLOW (too long)")]
    Overflow = 75,
    /// ENOTSUP: FAST_ZERO that would not be fast; nothing else.
    #[error("ENOTSUP (not fast)")]
    NotSupported = 95,
    /// ESHUTDOWN: the server is stopping.
    #[error("ESHUTDOWN (server is stopping)")]
    Shutdown = 108,
}

impl NbdError {
    /// All of them.
    pub const ALL: [NbdError; 8] = [
        NbdError::Permission,
        NbdError::Io,
        NbdError::NoMemory,
        NbdError::Invalid,
        NbdError::NoSpace,
        NbdError::Overflow,
        NbdError::NotSupported,
        NbdError::Shutdown,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// From the number on the wire, which is not zero; an unknown one is EINVAL.
    #[must_use]
    pub fn from_code(code: u32) -> NbdError {
        let known = NbdError::ALL.into_iter().find(|error| error.code() == code);
        known.unwrap_or(NbdError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section *Error values*.
    #[test]
    fn numbers() {
        let codes = NbdError::ALL.map(NbdError::code);
        assert_eq!(codes, [1, 5, 12, 22, 28, 75, 95, 108]);
        for error in NbdError::ALL {
            assert_eq!(NbdError::from_code(error.code()), error);
        }
        assert_eq!(NbdError::from_code(2), NbdError::Invalid);
    }
}
