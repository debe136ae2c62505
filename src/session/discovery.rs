//! The text of a SendTargets answer (RFC 7143 appendix C): a TargetName begins a record, the addresses
//! that follow belong to it. Linear in the length of the text, whatever it holds.

use super::error::shown;
use super::event::TargetRecord;
use crate::wire::iscsi::text::{self, TextError};
use crate::wire::iscsi::{TargetAddress, keys};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Found {
    order: usize,
    addresses: Vec<TargetAddress>,
    known: BTreeSet<TargetAddress>,
    unusable: Vec<String>,
}

/// Reads the records. Repeated names are merged, repeated addresses dropped; an address before any name
/// and other keys are ignored; a name that cannot be one is dropped with its addresses.
pub(super) fn records(text: &[u8]) -> Result<Vec<TargetRecord>, TextError> {
    let mut targets: BTreeMap<&str, Found> = BTreeMap::new();
    let mut current: Option<&str> = None;
    for pair in text::pairs(text) {
        match pair? {
            (keys::TARGET_NAME, name) => {
                current = is_name(name).then_some(name);
                if let Some(name) = current {
                    let order = targets.len();
                    targets.entry(name).or_insert_with(|| Found { order, ..Found::default() });
                }
            }
            (keys::TARGET_ADDRESS, address) => {
                let Some(found) = current.and_then(|name| targets.get_mut(name)) else { continue };
                match address.parse::<TargetAddress>() {
                    Ok(address) => {
                        if found.known.insert(address.clone()) {
                            found.addresses.push(address);
                        }
                    }
                    Err(_) => found.unusable.push(shown(address)),
                }
            }
            _ => {}
        }
    }
    let mut ordered: Vec<(&str, Found)> = targets.into_iter().collect();
    ordered.sort_by_key(|(_, found)| found.order);
    let record = |(name, found): (&str, Found)| TargetRecord {
        name: name.to_owned(),
        addresses: found.addresses,
        unusable: found.unusable,
    };
    Ok(ordered.into_iter().map(record).collect())
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= text::NAME_MAX
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(record: &TargetRecord) -> Vec<String> {
        record.addresses.iter().map(ToString::to_string).collect()
    }

    /// RFC 7143 appendix C: two targets, several portals, IPv6.
    #[test]
    fn several_targets() {
        let text = b"TargetName=iqn.1993-11.com.example:diskarray.sn.8675309\0\
            TargetAddress=10.1.0.45:3000,1\0TargetAddress=10.1.1.46:3000,1\0\
            TargetAddress=10.1.0.45:3000,1\0\
            TargetName=iqn.1993-11.com.example:diskarray.sn.1234567\0\
            TargetAddress=[2001:db8::1],2\0TargetAddress=storage.example,23\0";
        let records = records(text).expect("good");
        assert_eq!(records[0].name, "iqn.1993-11.com.example:diskarray.sn.8675309");
        assert_eq!(addresses(&records[0]), ["10.1.0.45:3000,1", "10.1.1.46:3000,1"]);
        assert_eq!(addresses(&records[1]), ["[2001:db8::1]:3260,2", "storage.example:3260,23"]);
        assert_eq!(records.len(), 2);
    }

    /// RFC 7143 appendix C: a name alone; an address without a name; other keys; bad addresses.
    #[test]
    fn odd_answers() {
        let text = b"TargetAddress=10.0.0.1,1\0Foo=1\0TargetName=iqn.x:a\0\
            TargetName=iqn.x:b\0TargetAddress=[::1\0TargetAddress=10.0.0.2\0\
            TargetName=\0TargetAddress=10.0.0.3,1\0TargetName=a b\0\
            TargetName=iqn.x:a\0TargetAddress=10.0.0.4,1\0";
        let records = records(text).expect("good");
        assert_eq!(records.len(), 2);
        assert_eq!(
            (records[0].name.as_str(), addresses(&records[0])),
            ("iqn.x:a", vec!["10.0.0.4:3260,1".into()])
        );
        assert_eq!(records[1].unusable, ["[::1"]);
        assert_eq!(records[1].addresses[0].portal_group, None);
        assert_eq!(super::records(b"").expect("none"), []);
        assert!(super::records(b"TargetName=iqn.x:a").is_err());
        let long = format!("TargetName={}\0", "a".repeat(224));
        assert_eq!(super::records(long.as_bytes()).expect("dropped"), []);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            let _ = records(&text);
        }
    }
}
