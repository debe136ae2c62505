//! The same cases on both engines.

#[path = "cases.rs"]
#[expect(clippy::duplicate_mod, reason = "a case asks by which name it was included")]
mod on_epoll;
#[path = "cases.rs"]
#[expect(clippy::duplicate_mod, reason = "a case asks by which name it was included")]
mod on_uring;
