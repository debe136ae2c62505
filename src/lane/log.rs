//! Notices leave the lane through a bounded queue to a thread that writes them: a log that blocks (a full
//! pipe to the journal) must not stop I/O.

use crate::volume::{Level, Notice};
use std::sync::mpsc::{self, SyncSender};

/// Notices that wait to be written; beyond it they are counted and dropped.
const QUEUE_MAX: usize = 1024;

struct Line {
    device: String,
    notice: Notice,
    dropped: u64,
}

/// The lane's end of the queue.
pub(super) struct Sink {
    sender: Option<SyncSender<Line>>,
    dropped: u64,
}

impl Sink {
    /// Starts the writing thread. Without one (no threads to be had) the lane runs on, silently.
    pub(super) fn start() -> Sink {
        let (sender, receiver) = mpsc::sync_channel::<Line>(QUEUE_MAX);
        let started = std::thread::Builder::new().name("lane-log".to_owned()).spawn(move || {
            for line in receiver {
                write(&line);
            }
        });
        Sink { sender: started.is_ok().then_some(sender), dropped: 0 }
    }

    pub(super) fn put(&mut self, device: &str, notice: Notice) {
        let Some(sender) = &self.sender else { return };
        let line = Line { device: device.to_owned(), notice, dropped: self.dropped };
        match sender.try_send(line) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += 1,
        }
    }
}

fn write(line: &Line) {
    let Line { device, notice, dropped } = line;
    let Notice { level, path, what, why } = notice;
    let path = path.as_deref().unwrap_or("-");
    if *dropped > 0 {
        tracing::warn!(%device, "{dropped} notices were dropped: the log could not keep up");
    }
    match level {
        Level::Info => tracing::info!(%device, %path, "{what}: {why}"),
        Level::Warn => tracing::warn!(%device, %path, "{what}: {why}"),
        Level::Error => tracing::error!(%device, %path, "{what}: {why}"),
    }
}
