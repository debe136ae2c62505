//! Whose fault an error is. Each kind has one reaction per layer, so that "fails over" and "fails the
//! request" are decided in one place.

/// Who is to blame for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Bytes that no conforming peer sends.
    Malformed,
    /// Well-formed, but against the protocol or against what was negotiated.
    TargetMisbehaved,
    /// Both sides are right and still cannot work together (no common digest, LUN gone).
    Incompatible,
    /// What the administrator wrote does not work (authentication, wrong name).
    Config,
    /// The transport: refused, reset, silent.
    Io,
}
