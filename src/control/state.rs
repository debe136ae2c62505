//! The state file of a device: which nexuses may still have writes on their way if this process dies now.
//!
//! One JSON file for each initiator name and device, replaced whole and synced (file, then directory), so
//! that there is always either the old one or the new one. It is written once for each nexus and struck
//! out at a clean logout, never on the data path. A file that cannot be understood stops the start: what it
//! said may matter.

use super::config::secret::plain;
use super::lock;
use crate::volume::nexus::NexusRecord;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const SUFFIX: &str = ".state.json";

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    initiator: String,
    device: String,
    nexuses: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    target: String,
    portal_group: Option<u16>,
    portals: Vec<SocketAddr>,
    isid: String,
    lun: u64,
    lane: u16,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("state file {path}: {why}; try: {hint}")]
pub struct StateError {
    path: String,
    why: String,
    hint: &'static str,
}

/// The state file of one device.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    initiator: String,
    device: String,
    records: Vec<NexusRecord>,
}

impl StateFile {
    /// Reads the file in `dir`, which is made if it is not there. No file is an empty one.
    ///
    /// # Errors
    /// When the directory cannot be written to, or the file is not one of ours.
    pub fn open(dir: &Path, initiator: &str, device: &str) -> Result<StateFile, StateError> {
        let path = dir.join(format!("{}.{device}{SUFFIX}", lock::stem(initiator)));
        let error = |why: String, hint| StateError { path: path.display().to_string(), why, hint };
        let io = |e: io::Error| {
            error(plain(&e), "a directory that this user can write to (STATE_DIRECTORY)")
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let mut file = StateFile {
            path: path.clone(),
            initiator: initiator.to_owned(),
            device: device.to_owned(),
            records: Vec::new(),
        };
        match std::fs::read(&path) {
            Ok(bytes) => {
                file.records = parse(&bytes).map_err(|why| {
                    error(why, "the version of mpio that wrote it, or, if no storage node can still execute old writes, remove it")
                })?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(e)),
        }
        Ok(file)
    }

    /// Nexuses that may still have writes on their way.
    #[must_use]
    pub fn records(&self) -> &[NexusRecord] {
        &self.records
    }

    /// Writes a nexus down. When this returns, it outlives the process and the machine.
    ///
    /// # Errors
    /// Those of the file system; nothing has changed then.
    pub fn record(&mut self, record: NexusRecord) -> io::Result<()> {
        if self.records.contains(&record) {
            return Ok(());
        }
        let mut records = self.records.clone();
        let same = |r: &NexusRecord| r.isid == record.isid && r.target == record.target;
        match records.iter_mut().find(|r| same(r) && r.portal_group == record.portal_group) {
            Some(known) => {
                let new = record.portals.iter().filter(|p| !known.portals.contains(p));
                let new: Vec<SocketAddr> = new.copied().collect();
                known.portals.extend(new);
                known.path = record.path;
            }
            None => records.push(record),
        }
        self.write(&records)?;
        self.records = records;
        Ok(())
    }

    /// Strikes a nexus out.
    ///
    /// # Errors
    /// Those of the file system; nothing has changed then.
    pub fn forget(&mut self, record: &NexusRecord) -> io::Result<()> {
        let same = |r: &NexusRecord| {
            r.isid == record.isid
                && r.target == record.target
                && r.portal_group == record.portal_group
        };
        let left: Vec<NexusRecord> = self.records.iter().filter(|r| !same(r)).cloned().collect();
        if left.len() != self.records.len() {
            self.write(&left)?;
            self.records = left;
        }
        Ok(())
    }

    fn write(&self, records: &[NexusRecord]) -> io::Result<()> {
        if records.is_empty() {
            std::fs::remove_file(&self.path)?;
            return sync_dir(&self.path);
        }
        let document = Document {
            version: VERSION,
            initiator: self.initiator.clone(),
            device: self.device.clone(),
            nexuses: records.iter().map(entry).collect(),
        };
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&document)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        sync_dir(&self.path)
    }

    /// State files of this initiator name for devices that are not among `known`.
    #[must_use]
    pub fn strangers(dir: &Path, initiator: &str, known: &[&str]) -> Vec<PathBuf> {
        let stem = format!("{}.", lock::stem(initiator));
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let strange = names.filter(|name| {
            let device = name.strip_prefix(&stem).and_then(|rest| rest.strip_suffix(SUFFIX));
            device.is_some_and(|device| !known.contains(&device))
        });
        strange.map(|name| dir.join(name)).collect()
    }
}

fn sync_dir(file: &Path) -> io::Result<()> {
    let dir = file.parent().ok_or_else(|| io::Error::other("no directory"))?;
    File::open(dir)?.sync_all()
}

fn entry(record: &NexusRecord) -> Entry {
    Entry {
        path: record.path.clone(),
        target: record.target.clone(),
        portal_group: record.portal_group,
        portals: record.portals.clone(),
        isid: data_encoding::HEXLOWER.encode(&record.isid),
        lun: record.lun,
        lane: record.lane,
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<NexusRecord>, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| format!("it is damaged ({error})"))?;
    if document.version != VERSION {
        return Err(format!("it has version {}, this is {VERSION}", document.version));
    }
    let nexus = |entry: Entry| {
        let isid = data_encoding::HEXLOWER.decode(entry.isid.as_bytes()).ok();
        let isid = isid.and_then(|isid| <[u8; 6]>::try_from(isid).ok());
        Ok(NexusRecord {
            isid: isid.ok_or_else(|| format!("it is damaged ({:?} is no ISID)", entry.isid))?,
            target: entry.target,
            portal_group: entry.portal_group,
            portals: entry.portals,
            lun: entry.lun,
            path: entry.path,
            lane: entry.lane,
        })
    };
    document.nexuses.into_iter().map(nexus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "iqn.2026-11.example:host/1";

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mpio-state-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    fn record(last: u8) -> NexusRecord {
        NexusRecord {
            target: "iqn.2026-11.example.san:ha1".into(),
            portal_group: Some(1),
            portals: vec!["10.10.1.10:3260".parse().unwrap()],
            isid: [0x80, 0, 0, 0, 0, last],
            lun: 1 << 48,
            path: "a:ha1".into(),
            lane: 0,
        }
    }

    #[test]
    fn what_is_written_is_found_by_the_next_one() {
        let dir = dir("next");
        let mut file = StateFile::open(&dir, NAME, "vm0").unwrap();
        assert!(file.records().is_empty());
        file.record(record(1)).unwrap();
        file.record(record(2)).unwrap();
        file.record(record(2)).unwrap();
        // The same nexus by another portal of its group.
        let portal = "10.10.2.10:3260".parse().unwrap();
        file.record(NexusRecord { portals: vec![portal], ..record(1) }).unwrap();
        let found = StateFile::open(&dir, NAME, "vm0").unwrap();
        assert_eq!(found.records(), file.records());
        assert_eq!(found.records().len(), 2);
        assert_eq!(found.records()[0].portals.len(), 2);
        let other = StateFile::open(&dir, NAME, "vm1").unwrap();
        assert!(other.records().is_empty());
        let strange = StateFile::strangers(&dir, NAME, &["vm1"]);
        assert_eq!(strange.len(), 1, "{strange:?}");
        assert!(StateFile::strangers(&dir, NAME, &["vm0"]).is_empty());
        assert!(StateFile::strangers(&dir, "iqn.2026-11.example:host", &[]).is_empty());
        file.forget(&record(1)).unwrap();
        assert_eq!(StateFile::open(&dir, NAME, "vm0").unwrap().records(), [record(2)]);
        file.forget(&record(2)).unwrap();
        file.forget(&record(2)).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "no empty file is left");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_says_something_else_stops_the_start() {
        let dir = dir("damaged");
        let mut file = StateFile::open(&dir, NAME, "vm0").unwrap();
        file.record(record(1)).unwrap();
        let text = std::fs::read_to_string(&file.path).unwrap();
        for (bad, why) in [
            (text[..text.len() / 2].to_owned(), "it is damaged"),
            (text.replace("\"version\": 1", "\"version\": 2"), "it has version 2, this is 1"),
            (text.replace("800000000001", "80"), "\"80\" is no ISID"),
        ] {
            std::fs::write(&file.path, bad).unwrap();
            let error = StateFile::open(&dir, NAME, "vm0").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("; try: "), "{error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_not_recorded() {
        let error = StateFile::open(Path::new("/proc/nothing"), NAME, "vm0").unwrap_err();
        assert!(error.to_string().starts_with("state file /proc/nothing/"), "{error}");
        let dir = dir("gone");
        let mut file = StateFile::open(&dir, NAME, "vm0").unwrap();
        file.record(record(1)).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(file.record(record(2)).is_err());
        assert!(file.forget(&record(1)).is_err());
        assert_eq!(file.records(), [record(1)]);
    }
}
