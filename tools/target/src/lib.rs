//! The embedded mirrored target pair: two iSCSI targets, two portals, one logical unit.
