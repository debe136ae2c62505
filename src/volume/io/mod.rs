//! The life of one I/O: a request is held for its range and cut into parts; parts get a path, come back or do
//! not, and are judged; the answer goes out when every part is done.
//!
//! | file | what |
//! |---|---|
//! | `request` | the life of a request, range first |
//! | `transfer`, `block_ops`, `flush` | what READ and WRITE, TRIM and WRITE_ZEROES, FLUSH and FUA are made of |
//! | `dispatch` | which path a part takes |
//! | `complete` | what an answer means for it |
//! | `abandon`, `hedge` | commands that nobody waits for any more, and copies of slow reads |

pub(in crate::volume) mod abandon;
pub(in crate::volume) mod block_ops;
pub(in crate::volume) mod complete;
pub(in crate::volume) mod dispatch;
pub(in crate::volume) mod flush;
pub mod hedge;
pub(in crate::volume) mod request;
pub(in crate::volume) mod transfer;
