//! The daemon: configuration, discovery, admin server, signals. Its data plane is the lanes.
//!
//! | file | what |
//! |---|---|
//! | `config` | the file, its errors, what it would build |
//! | `plan`, `names`, `isid` | from portals and targets to paths |
//! | `connect`, `initiator`, `discovery`, `listing` | asking portals and targets |
//! | `daemon` | the life of the process |
//! | `server` | the admin server |
//! | `sockets`, `lock`, `state`, `dirs`, `runtime`, `log` | what it stands on |

pub mod config;
pub mod connect;
pub mod daemon;
pub mod dirs;
pub mod discovery;
pub mod initiator;
pub mod isid;
pub mod listing;
pub mod lock;
pub mod log;
pub mod names;
pub mod plan;
pub mod pressure;
pub mod runtime;
pub mod server;
pub mod sockets;
pub mod state;
