//! The lane over real sockets once more, on epoll: where io_uring is refused, the same must hold.

#[path = "lane.rs"]
mod cases;
