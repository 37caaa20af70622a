//! A helper while the machine's clock jumps: in a guest, whose clock is nobody else's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use libc::{O_CREAT, O_EXCL, O_RDWR};
use nix::sys::signal::Signal;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::guest::Guest;
use crate::program::{Launch, ours, scratch, wait_until};
use crate::wire::{Client, ask};

#[test]
fn a_clock_that_jumps_is_nothing_to_a_helper() {
    let tests = std::env::current_exe().unwrap();
    let name = tests.file_name().unwrap().to_str().unwrap();
    let guest = Guest::new().program(&ours()).program(&tests).memory(2048).script(format!(
        "VPH_HELPER=/usr/local/bin/virtfs-proxy-helper {name} --ignored --exact clock::within_a_guest --nocapture"
    ));
    let said = guest.run().success();
    assert!(said.contains("1 passed"), "{said}");
}

/// Seconds since 1970 to which the clock is set: before and after what 32 bits hold, back and forth.
const TIMES: [i64; 6] = [5_000_000_000, 1000, 1_700_000_000, 2_147_483_647, 86_400, 1_800_000_000];

#[test]
#[ignore = "sets the machine's clock: the test above runs it in a guest"]
fn within_a_guest() {
    let dir = scratch();
    let (export, socket) = (dir.path().join("export"), dir.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let mut helper =
        Launch::new(&ours(), &export).option("--shared=4").option("--persistent").by_socket(&socket);
    wait_until("the helper listens", || socket.exists());
    let mut staying = Client::connect_soon(&socket);
    let mut made = 0;
    for time in TIMES {
        clock_settime(ClockId::Realtime, Timespec { tv_sec: time, tv_nsec: 0 }).unwrap();
        // One that was there before, and one that comes after the jump.
        for client in [&mut staying, &mut Client::connect_soon(&socket)] {
            let name = format!("/{made}");
            let create = ask::create(name.as_bytes(), O_CREAT | O_EXCL | O_RDWR, 0o644, 0, 0);
            let answer = client.ask(&create);
            assert!(answer.is_success(), "{answer:?} at {time}: {}", helper.log());
            let modified = fs::metadata(export.join(&name[1..])).unwrap().mtime();
            let now = clock_gettime(ClockId::Realtime).tv_sec;
            assert!(
                (time - 1..=now).contains(&modified),
                "made between {time} and {now}, it says, at {modified}"
            );
            // A helper that waited by that clock would not answer before the client's patience ends.
            for _ in 0..50 {
                client.ask(&ask::lstat(name.as_bytes())).ok();
            }
            made += 1;
        }
        assert!(helper.is_alive(), "{}", helper.log());
    }
    drop(staying);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: 1000, tv_nsec: 0 }).unwrap();
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success(), "{}", helper.log());
}
