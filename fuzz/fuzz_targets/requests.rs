//! See `virtfs_proxy_helper_fuzz::requests`. Without `cargo fuzz`, replays the files it is given.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| virtfs_proxy_helper_fuzz::requests(bytes));

#[cfg(not(fuzzing))]
fn main() {
    virtfs_proxy_helper_fuzz::replay(virtfs_proxy_helper_fuzz::requests);
}
