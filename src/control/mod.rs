//! The daemon: configuration, discovery, admin server, signals. Its data plane is the lanes.

pub mod config;
pub mod connect;
pub mod isid;
pub mod lock;
pub mod names;
pub mod plan;
pub mod runtime;
pub mod server;
pub mod sockets;
