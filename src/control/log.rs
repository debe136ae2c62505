//! Logs to stderr: one line of text or one JSON object per event.

use tracing_subscriber::EnvFilter;

/// Starts logging; later calls change nothing, so that a process can hold several daemons.
///
/// # Errors
/// When the filter is not one.
pub fn start(json: bool, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Somebody may have started it before; that one stays.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).with_ansi(false).try_init()
    };
    Ok(())
}
