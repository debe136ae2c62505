//! The session against literal bytes and against a scripted target.

mod script;
