//! What `--help` ends with: exit statuses, files and examples. The man pages have them as sections.
//!
//! A line without indentation that ends with a colon is a heading. Below `Exit status:` and `Files:` a word and its meaning are
//! separated by two spaces; a line that is indented further continues the meaning. Below `Examples:` a `#` begins a sentence, and every
//! other line is a command.

/// What every helper option has in common.
pub(super) const ENVIRONMENT: &str = "\
Each helper option can come from the environment too, by its name: VIRTFS_SOCKET is --socket. The command \
line wins, --nodaemon=false over VIRTFS_NODAEMON=true too. An empty variable counts as unset.";

/// The helper itself.
pub(super) const HELPER: &str = "\
Each helper option can come from the environment too, by its name: VIRTFS_SOCKET is --socket. The command \
line wins, --nodaemon=false over VIRTFS_NODAEMON=true too. An empty variable counts as unset.

Exit status:
  0  The helper has ended after its work. Without --nodaemon: it listens on the socket now
  1  The helper cannot serve the export; the message names the reason
  2  The command line is wrong

Files:
  PATH.health  The health socket beside --socket PATH; healthcheck asks there

Examples:
  # Serve /srv/export to a QEMU that runs as libvirt-qemu:
  virtfs-proxy-helper --path /srv/export --socket /run/virtfs/export.sock --uid libvirt-qemu --gid kvm
  # Stay in the foreground, and serve one guest after the other:
  virtfs-proxy-helper --nodaemon --persistent --path /srv/export --socket /run/virtfs/export.sock --uid libvirt-qemu --gid kvm
  # Find every share of this machine that uses the proxy backend:
  virtfs-proxy-helper migrate audit";

/// `healthcheck`.
pub(super) const HEALTHCHECK: &str = "\
Exit status:
  0  The helper could serve a client now
  1  It could not, or did not answer in time; standard error has the reason
  2  The command line is wrong

Examples:
  # Ask the helper behind a socket:
  virtfs-proxy-helper healthcheck --socket /run/virtfs/export.sock";

/// `migrate`.
pub(super) const MIGRATE: &str = "\
Exit status:
  0  Nothing is left to do
  1  The work could not be done
  2  The command line is wrong
  3  Something was found that needs a decision
  4  Nothing was found, but not everything could be read

Examples:
  # Find the shares, and check the export of one of them:
  virtfs-proxy-helper migrate audit
  virtfs-proxy-helper migrate check /srv/share --owner libvirt-qemu
  # Show the new configuration:
  virtfs-proxy-helper migrate config vm.xml --diff
  # Shut the guest down and stop its helper. Then convert the files, prove it, and write the configuration:
  virtfs-proxy-helper migrate convert /srv/share --owner libvirt-qemu --apply
  virtfs-proxy-helper migrate verify /srv/share
  virtfs-proxy-helper migrate config vm.xml --in-place
  # Take the conversion back:
  virtfs-proxy-helper migrate rollback /srv/share --apply";

/// `migrate audit`.
pub(super) const AUDIT: &str = "\
Exit status:
  0  Everything was read, and no share uses the proxy backend; or --exit-zero was given
  1  The audit failed
  2  The command line is wrong
  3  Shares that use the proxy backend were found
  4  None was found, but something could not be read

Examples:
  # Look at this machine, as root:
  virtfs-proxy-helper migrate audit
  # Judge against the QEMU that is about to be installed, and keep the result for migrate report:
  virtfs-proxy-helper migrate audit --qemu 10.0 --format json --output audit.json
  # Look at one file, and at one directory:
  virtfs-proxy-helper migrate audit vm.xml /usr/local/bin
  # Look at a host whose file system is mounted at /mnt:
  virtfs-proxy-helper migrate audit --root /mnt";

/// `migrate config`.
pub(super) const CONFIG: &str = "\
Exit status:
  0  The configuration was printed or written; with --check: nothing would change
  1  The file could not be read or rewritten. It is unchanged
  2  The command line is wrong
  3  With --check: the file would change

Files:
  FILE.orig  The old contents of FILE after --in-place; FILE.orig.2 where FILE.orig exists

Examples:
  # Show what would change:
  virtfs-proxy-helper migrate config vm.xml --diff
  # Name the exported directory where the file does not:
  virtfs-proxy-helper migrate config vm.xml --export share=/srv/share --diff
  # Change the file. The old one is kept as vm.xml.orig:
  virtfs-proxy-helper migrate config vm.xml --in-place
  # Print QEMU's new arguments for the shares of a file:
  virtfs-proxy-helper migrate config start-vm --to qemu-args";

/// `migrate check`.
pub(super) const CHECK: &str = "\
Exit status:
  0  The export's files can be converted; or --exit-zero was given
  1  The check failed
  2  The command line is wrong
  3  A finding needs a decision first
  4  No finding stands against it, but not everything could be seen: run it as root

Examples:
  # Ask whether QEMU may run as libvirt-qemu:
  virtfs-proxy-helper migrate check /srv/share --owner libvirt-qemu
  # Try as this user to read and write the export:
  virtfs-proxy-helper migrate check /srv/share --as libvirt-qemu";

/// `migrate convert`.
pub(super) const CONVERT: &str = "\
Exit status:
  0  The export is converted. Without --apply: it can be
  1  The conversion failed or is not complete; the message names the reason. The same command continues
  2  The command line is wrong
  3  A finding needs a decision first. Nothing was changed; --adopt has adopted everything but the entries that it names

Files:
  EXPORT.virtfs-journal  The original owner, mode, times and attributes of every file. Keep it: rollback needs it

Examples:
  # Show what would be done. Nothing is changed:
  virtfs-proxy-helper migrate convert /srv/share --owner libvirt-qemu
  # Convert. The guest is shut down, and its helper is stopped:
  virtfs-proxy-helper migrate convert /srv/share --owner libvirt-qemu --apply
  # Adopt the files that other programs have added since. The guest may be running:
  virtfs-proxy-helper migrate convert /srv/share --adopt --apply";

/// `migrate verify`.
pub(super) const VERIFY: &str = "\
Exit status:
  0  The guest sees every file as before the conversion; or --exit-zero was given
  1  The verification failed
  2  The command line is wrong
  3  A difference was found

Files:
  EXPORT.virtfs-journal  The journal of the conversion

Examples:
  # Compare the converted export with its journal, before the guest starts:
  virtfs-proxy-helper migrate verify /srv/share";

/// `migrate rollback`.
pub(super) const ROLLBACK: &str = "\
Exit status:
  0  The conversion is taken back. Without --apply: it can be
  1  The rollback failed or is not complete; the message names the reason. The same command continues
  2  The command line is wrong
  3  The export is in use. Nothing was changed

Files:
  EXPORT.virtfs-journal  The journal of the conversion

Examples:
  # Show what would be done. Nothing is changed:
  virtfs-proxy-helper migrate rollback /srv/share
  # Take the conversion back. The guest is shut down:
  virtfs-proxy-helper migrate rollback /srv/share --apply";

/// `migrate journal`.
pub(super) const JOURNAL: &str = "\
Exit status:
  0  Every record of the journal is intact
  1  The journal is damaged, or cannot be read
  2  The command line is wrong

Examples:
  # Print the state of a conversion:
  virtfs-proxy-helper migrate journal /srv/share.virtfs-journal";

/// `migrate unmap`.
pub(super) const UNMAP: &str = "\
Exit status:
  0  Every file has the owner, mode and type that its guest sees. Without --apply: it can have
  1  The work failed or is not complete; the message names the reason. The same command continues
  2  The command line is wrong
  3  The tree is in use, or a finding needs a decision first. Nothing was changed

Files:
  TREE.virtfs-unmap-journal  Which files are done; --journal names another file

Examples:
  # Show what would be done to a tree that QEMU kept with security_model=mapped-xattr:
  virtfs-proxy-helper migrate unmap /srv/share --from mapped-xattr
  virtfs-proxy-helper migrate unmap /srv/share --from mapped-xattr --apply";

/// `migrate manifest`.
pub(super) const MANIFEST: &str = "\
Exit status:
  0  The tree is described
  1  Part of the tree could not be read; the message names it
  2  The command line is wrong

Examples:
  # Compare what a guest sees before and after a conversion:
  virtfs-proxy-helper migrate manifest /srv/share >before
  virtfs-proxy-helper migrate manifest /srv/share --as mapped-xattr >after";

/// `migrate report`.
pub(super) const REPORT: &str = "\
Exit status:
  0  No host has a share that uses the proxy backend; or --exit-zero was given
  1  The report could not be made
  2  The command line is wrong
  3  Shares that use the proxy backend are left
  4  None was found, but a host's audit is missing or incomplete

Examples:
  # Merge the audits of a directory, each named after its host, into one page:
  virtfs-proxy-helper migrate report --format html --output fleet.html audits/
  # Compare with earlier audits:
  virtfs-proxy-helper migrate report --since audits-of-may/ audits/";

/// `migrate plan`.
pub(super) const PLAN: &str = "\
Exit status:
  0  The plan is complete: no question is open
  1  The plan could not be made
  2  The command line is wrong
  3  The plan has open questions; it names the option that answers each
  4  No question is open, but something could not be read

Examples:
  # Plan the move of all guests of this machine, as root:
  virtfs-proxy-helper migrate plan
  # Plan for one guest, and say as whom its QEMU runs:
  virtfs-proxy-helper migrate plan --guest web --owner web=libvirt-qemu
  # Keep the plan as a file:
  virtfs-proxy-helper migrate plan --output plan.yaml
  # See from a container that has the host's file system at /host what the move takes; apply and undo need the host itself:
  virtfs-proxy-helper migrate plan --root /host";

/// `migrate status`.
pub(super) const STATUS: &str = "\
Exit status:
  0  No share uses the proxy backend, and every share fits its export; or --exit-zero was given
  1  The status could not be found out
  2  The command line is wrong
  3  Something is left to do, or a share and its export do not fit
  4  Nothing is left to do as far as could be read, but not all could be read

Examples:
  # Say how far this machine's guests are, as root:
  virtfs-proxy-helper migrate status
  # The same from a container that has the host's file system at /host:
  virtfs-proxy-helper migrate status --root /host --format json";

/// `migrate apply`.
pub(super) const APPLY: &str = "\
Exit status:
  0  Everything is done
  1  A step failed. The message says whether all is taken back
  2  The command line is wrong, or nobody agreed
  3  Everything is done, and something is left for you to do by hand

Examples:
  # Plan, read the plan, and carry it out:
  virtfs-proxy-helper migrate plan --output plan.yaml
  virtfs-proxy-helper migrate apply plan.yaml
  # Without a terminal; a guest that does not mount its share within 5 minutes is taken back:
  virtfs-proxy-helper migrate apply plan.yaml --yes --probe /usr/local/bin/guest-has-its-share
  # After an interruption the same command goes on.";

/// `migrate undo`.
pub(super) const UNDO: &str = "\
Exit status:
  0  Everything is as before the move
  1  Something could not be taken back; the message names it with its commands
  2  The command line is wrong, or nobody agreed

Examples:
  # Take back what migrate apply did:
  virtfs-proxy-helper migrate undo plan.yaml
  # Only one guest, without a terminal:
  virtfs-proxy-helper migrate undo plan.yaml --guest web --yes";
