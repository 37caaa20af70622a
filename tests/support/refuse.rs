//! Helpers whose kernel refuses a system call: as an older one does, or a container's runtime.

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// A system call; only where its argument of that number is that value, if one is given.
#[derive(Debug, Clone, Copy)]
pub struct Refused(pub libc::c_long, pub Option<(u8, u64)>, pub Errno);

/// Runs `test` on a thread whose children's calls are refused.
pub fn refusing(refused: Refused, test: impl FnOnce() + Send) {
    let Refused(call, argument, errno) = refused;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let rule = argument.map(|(number, value)| {
                let condition =
                    SeccompCondition::new(number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
                SeccompRule::new(vec![condition]).unwrap()
            });
            let rules = [(call, rule.into_iter().collect())].into_iter().collect();
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let refuse = SeccompAction::Errno(errno as u32);
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            apply_filter(&program).unwrap();
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
