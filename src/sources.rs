//! Where shares hide: one file a format, one line a format in [`registry`].

pub mod audit;
mod chars;
mod cmdline;
mod commands;
pub mod config;
mod containers;
mod documents;
mod elsewhere;
mod expansions;
pub mod format;
mod join;
mod launcher;
mod lexed;
pub mod libvirt;
pub mod managed;
mod mention;
mod naming;
#[cfg(test)]
mod properties;
mod proved;
mod proxmox;
mod quote_style;
pub mod readconfig;
pub mod registry;
mod shell;
mod spelling;
mod systemd;
mod templates;
mod unit_names;
mod wrappers;

pub use format::{Beside, Document, Format, Listener, Reading, Unreadable, path_of};
pub use registry::{FORMATS, recognise, recognise_named};
