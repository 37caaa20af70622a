//! A setting of a unit.

use crate::share::Place;

/// A setting, with its specifiers resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The section that it stands in.
    pub section: Vec<u8>,
    /// Its name.
    pub key: Vec<u8>,
    /// The words of its value; none takes back what was said before.
    pub words: Vec<Vec<u8>>,
    /// Where it stands.
    pub place: Place,
}
