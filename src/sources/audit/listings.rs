//! The listings of folders that many documents ask for: of a folder of units, each unit does.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How many entries are kept of all listings together.
const MOST_KEPT: usize = 1 << 15;

/// Listings, by folder.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    of: HashMap<PathBuf, Arc<[PathBuf]>>,
    entries: usize,
}

impl Listings {
    /// The entries of `folder`, by name; `list` reads them, where they are not kept.
    pub(super) fn get(&self, folder: &Path, list: impl FnOnce() -> Vec<PathBuf>) -> Arc<[PathBuf]> {
        // Held while the folder is read: readers that come at once would each read it.
        let Ok(mut kept) = self.kept.lock() else { return list().into() };
        if let Some(listing) = kept.of.get(folder) {
            return Arc::clone(listing);
        }
        let listing: Arc<[PathBuf]> = list().into();
        if kept.entries + listing.len() + 1 > MOST_KEPT {
            *kept = Kept::default();
        }
        // One for the folder itself.
        kept.entries += listing.len() + 1;
        kept.of.insert(folder.to_owned(), Arc::clone(&listing));
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::audit::Host;
    use crate::sources::format::{Beside as _, Document, Format as _};
    use crate::sources::systemd::Systemd;

    #[test]
    fn a_folder_is_listed_once_while_little_is_kept() {
        let listings = Listings::default();
        let mut listed = 0;
        let mut get = |folder: &str, entries: usize| {
            let list = || {
                listed += 1;
                vec![PathBuf::from("/a"); entries]
            };
            (listings.get(Path::new(folder), list).len(), listed)
        };
        assert_eq!(get("/units", 5000), (5000, 1));
        assert_eq!(get("/units", 5000), (5000, 1));
        assert_eq!(get("/none", 0), (0, 2));
        assert_eq!(get("/none", 0), (0, 2));
        // What is longer than everything that is kept is kept alone.
        assert_eq!(get("/long", MOST_KEPT), (MOST_KEPT, 3));
        assert_eq!(get("/long", MOST_KEPT), (MOST_KEPT, 3));
        assert_eq!(get("/units", 5000), (5000, 4));
    }

    #[test]
    fn the_units_of_a_folder_list_it_once() {
        let root = tempfile::tempdir().unwrap();
        let units = Path::new("/etc/systemd/system");
        let below = root.path().join("etc/systemd/system");
        std::fs::create_dir_all(&below).unwrap();
        let host = Host::new(Some(root.path())).unwrap();
        for number in 0..20 {
            std::fs::write(below.join(format!("{number}.service")), "[Service]\nExecStart=/q\n").unwrap();
            let unit = units.join(format!("{number}.service"));
            let bytes = b"[Service]\nExecStart=/q -virtfs proxy,socket=/a,mount_tag=t\n";
            let document = Document { path: Some(&unit), bytes };
            let reading = Systemd.read_beside(&document, Some(&host)).unwrap();
            assert_eq!(reading.shares.len(), 1);
        }
        // It is the listing that the first unit asked for.
        assert!(host.files(units).len() <= 1, "{:?}", host.files(units));
    }
}
