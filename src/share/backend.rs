//! The backend whose shares are looked for: the proxy, or, to prove a rewrite, the one that it moves them to.

#![forbid(unsafe_code)]

use std::cell::Cell;

/// A backend of QEMU's 9p server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `proxy`, with its `socket=` or `sock_fd=`.
    Proxy,
    /// `local`, with its `path=`, which stands where the socket's does in a [`super::Share`].
    Local,
}

thread_local! {
    static SOUGHT: Cell<Backend> = const { Cell::new(Backend::Proxy) };
}

impl Backend {
    /// The one whose shares readers find now.
    pub(crate) fn sought() -> Self {
        SOUGHT.get()
    }

    /// Does `work` while readers find the shares of this backend.
    pub(crate) fn seek<T>(self, work: impl FnOnce() -> T) -> T {
        let before = SOUGHT.replace(self);
        let done = work();
        SOUGHT.set(before);
        done
    }

    /// Its name, which every text that holds one of its shares says.
    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            Self::Proxy => b"proxy",
            Self::Local => b"local",
        }
    }

    /// Whether `text` says its name.
    pub(crate) fn is_in(self, text: &[u8]) -> bool {
        memchr::memmem::find(text, self.name()).is_some()
    }
}
