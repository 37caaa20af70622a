//! What a lexer found in a file.

use std::ops::Range;

use super::chars::{Command, Embedded};
use super::containers::{Container, UserMap};
use crate::share::rewrite::Edit;

/// What a lexer found in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lexed {
    /// Argument lists, the most telling ones first: the same argument may be in several.
    pub commands: Vec<Command>,
    /// Other commands of container engines: they may make what a container has volumes from.
    pub engines: Vec<Command>,
    /// Documents in the document.
    pub embedded: Vec<Embedded>,
    /// Containers that the document describes otherwise than by an engine's command line.
    pub containers: Vec<Container>,
    /// Services that are not started without the helper.
    pub required: Vec<Required>,
    /// The users that Docker's containers are on the host.
    pub user_map: Option<UserMap>,
}

/// A service that is not started without the helper.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Required {
    /// The bytes of the file that say it.
    pub span: Range<usize>,
    /// The setting: `depends_on: helper`.
    pub said: String,
    /// How to take it out, where that is certain.
    pub edits: Vec<Edit>,
}
