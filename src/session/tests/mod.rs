//! The session against literal bytes, against scripted answers, and against a small model target.

mod commands;
mod literal;
mod login;
mod manage;
mod model;
mod script;
mod strict;
mod text;
mod time;
