//! A connection's bytes: the decoder, with the executor behind it, on a tree of its own.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat};
use tempfile::TempDir;
use virtfs_proxy_helper::internals::helper::{
    Access, Answer, Directory, Frame, HEADER, IdMaps, Identity, Operations, ProtectedRegular, REPLY, Request,
    Sandbox, Seccomp, enter,
};

/// The most requests that one input may hold: each takes a while.
const MOST: usize = 40;

/// The host of the export, with something outside that must stay as it is.
struct Host {
    dir: TempDir,
    operations: Operations,
    secret: (u64, u64, i64, i64),
    reply: Vec<u8>,
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("virtfs-fuzz-").tempdir().expect("a scratch directory");
        let export = dir.path().join("export");
        fs::create_dir(&export).expect("an export");
        fs::create_dir(dir.path().join("outside")).expect("a directory outside");
        fs::write(dir.path().join("outside/secret"), b"secret").expect("a file outside");
        let directory = Directory::find(&export).expect("the export");
        let entered =
            enter(Sandbox::None, &directory, Access::Full, Seccomp::None).expect("the export beneath");
        let maps = IdMaps::read().expect("the id maps");
        let identity = Identity::of_this_thread(maps).expect("this thread's identity");
        let secret = Self::look(dir.path());
        Self {
            dir,
            operations: Operations::new(entered.reach, identity, false, ProtectedRegular::read()),
            secret,
            reply: vec![0; REPLY],
        }
    }

    /// What tells whether the secret was touched.
    fn look(dir: &Path) -> (u64, u64, i64, i64) {
        let metadata = fs::symlink_metadata(dir.join("outside/secret")).expect("the secret");
        (metadata.ino(), metadata.nlink(), metadata.ctime(), metadata.ctime_nsec())
    }

    fn export(&self) -> PathBuf {
        self.dir.path().join("export")
    }

    /// An export that is always the same at first; the directory itself stays, for it is held open.
    fn lay_out(&self) {
        let export = self.export();
        for entry in fs::read_dir(&export).expect("the export's entries").flatten() {
            let path = entry.path();
            let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.expect("an empty export");
        }
        fs::create_dir(export.join("d")).expect("a directory");
        fs::write(export.join("f"), b"content").expect("a file");
        symlink("f", export.join("l")).expect("a link");
        symlink("../outside", export.join("out")).expect("a way out");
    }

    fn serve(&mut self, mut bytes: &[u8]) {
        for _ in 0..MOST {
            let Ok(Some(frame)) = Frame::peek(bytes) else { return };
            let Some(payload) = bytes.get(HEADER..HEADER + frame.size) else { return };
            bytes = &bytes[HEADER + frame.size..];
            let Ok(request) = Request::decode(frame.number, payload) else { return };
            match self.operations.perform(request, &mut self.reply) {
                Ok(Answer::Bytes(length)) => {
                    let size =
                        u32::from_ne_bytes([self.reply[4], self.reply[5], self.reply[6], self.reply[7]]);
                    assert_eq!(usize::try_from(size), Ok(length - HEADER), "{request:?}");
                }
                Ok(Answer::File(file, _)) => {
                    let kind = SFlag::from_bits_truncate(fstat(&file).expect("an open file").st_mode)
                        & SFlag::S_IFMT;
                    assert!(kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR, "{request:?} opened {kind:?}");
                }
                Err(errno) => assert!(errno as i32 > 0, "{request:?}"),
            }
        }
    }
}

/// Decodes and executes what a client sends. Nothing outside the export may change, no special file may be opened,
/// and every reply must be whole.
pub fn requests(bytes: &[u8]) {
    HOST.with_borrow_mut(|host| {
        let host = host.get_or_insert_with(Host::new);
        host.lay_out();
        host.serve(bytes);
        assert_eq!(Host::look(host.dir.path()), host.secret, "something outside was touched");
        let outside = fs::read_dir(host.dir.path().join("outside")).expect("the directory outside").count();
        assert_eq!(outside, 1, "something was made outside");
    });
}
