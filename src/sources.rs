//! Where shares hide: one file a format, one line a format in [`registry`].

pub(crate) mod audit;
mod chars;
mod cmdline;
mod commands;
pub(crate) mod config;
mod containers;
mod documents;
mod elsewhere;
mod expansions;
pub(crate) mod format;
mod join;
mod launcher;
mod lexed;
pub(crate) mod libvirt;
pub(crate) mod managed;
mod mention;
mod naming;
#[cfg(test)]
mod properties;
mod proved;
mod proxmox;
mod quote_style;
pub(crate) mod readconfig;
pub(crate) mod registry;
mod shell;
mod spelling;
mod systemd;
mod templates;
mod unit_names;
mod wrappers;

pub use format::{Document, Format};
pub use registry::FORMATS;
