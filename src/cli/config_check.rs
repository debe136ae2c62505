//! `mpio config check`: would this file work here, what would it build, what would it take.

use super::{Failure, output};
use crate::control::config::{self, check};
use std::path::Path;

/// Checks a file.
///
/// # Errors
/// Exit code 2 with every error.
pub fn run(file: &Path) -> Result<(), Failure> {
    let wrong = |errors: Vec<config::ConfigError>| Failure {
        code: 2,
        messages: errors.iter().map(ToString::to_string).collect(),
    };
    let (config, warnings) = config::load(file).map_err(wrong)?;
    let errors = check::host(&config);
    if !errors.is_empty() {
        return Err(wrong(errors));
    }
    for warning in &warnings {
        output::error(&format!("{}:{}: warning: {}", file.display(), warning.line, warning.text));
    }
    output::print(&format!("{}: ok\n{}", file.display(), check::describe(&config)))
}
