//! Guests that libvirt runs, over the proxy and from the rewritten configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config;
use crate::instance::Instance;
use crate::program::{Launch, ours, scratch, wait_until};

const SCRIPT: &str = r#"
for device in /sys/bus/virtio/drivers/9pnet_virtio/virtio*; do
    echo "tag $(tr -d '\0' <"$device/mount_tag") at $(readlink -f "$device" | sed 's,/sys/devices/,,; s,/virtio[0-9]*$,,')"
done
cat /mnt/share/hello
echo by-the-guest >/mnt/share/new
chown 1000:2000 /mnt/share/new
chmod 640 /mnt/share/new
ln -s nowhere /mnt/share/link
stat -c '%n %F %a %u:%g %s' /mnt/share/new /mnt/share/link
if touch /mnt/readonly/x 2>/dev/null; then echo writable; else echo read-only; fi
"#;

/// What a guest's machine needs besides its shares, in a folder.
pub struct Machine {
    pub folder: PathBuf,
}

impl Machine {
    /// One whose guest runs a script.
    pub fn new(folder: &Path, script: &str) -> Self {
        let image =
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/image")).output().expect("bash");
        assert!(image.status.success(), "{}", String::from_utf8_lossy(&image.stderr));
        let image = PathBuf::from(String::from_utf8(image.stdout).expect("a path").trim_end());
        fs::create_dir_all(folder.join("root/rig")).expect("a folder");
        fs::write(folder.join("root/rig/settings"), "RIG_MOUNT=yes\nRIG_MOUNT_OPTIONS=''\n")
            .expect("settings");
        fs::write(folder.join("root/rig/script"), script).expect("the script");
        // The kernel unpacks archives that follow each other into one tree.
        let packed = Command::new("sh")
            .args([
                "-euc",
                r#"cp "$1/vmlinux" "$0/"; cd "$0/root"
                find . | cpio --quiet -o -H newc -R 0:0 | cat "$1/initramfs.cpio" - >"$0/initramfs.cpio""#,
            ])
            .args([folder, &image])
            .status()
            .expect("sh");
        assert!(packed.success(), "packing the guest's files");
        Self { folder: folder.to_owned() }
    }

    /// A domain with these arguments for QEMU.
    fn domain(&self, machine: &str, arguments: &[String]) -> PathBuf {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let ports: String = ["out", "err", "status"]
            .map(|name| {
                let path = at(name);
                format!("    <channel type='file'>\n      <source path='{path}'/>\n      <target type='virtio' name='{name}'/>\n    </channel>\n")
            })
            .concat();
        let arguments: String = arguments
            .iter()
            .fold(String::new(), |text, value| text + "    <qemu:arg value='" + value + "'/>\n");
        let text = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>vm</name>\n  \
             <memory unit='MiB'>512</memory>\n  <vcpu>1</vcpu>\n  <os>\n    <type arch='x86_64' \
             machine='{machine}'>hvm</type>\n    <kernel>{}</kernel>\n    <initrd>{}</initrd>\n    \
             <cmdline>console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable audit=0</cmdline>\n  </os>\n  \
             <features><acpi/></features>\n  <on_poweroff>destroy</on_poweroff>\n  <devices>\n    \
             <emulator>/usr/bin/qemu-system-x86_64</emulator>\n    <serial type='file'>\n      <source \
             path='{}'/>\n    </serial>\n{ports}    <memballoon model='none'/>\n  </devices>\n  \
             <qemu:commandline>\n{arguments}  </qemu:commandline>\n</domain>\n",
            at("vmlinux"),
            at("initramfs.cpio"),
            at("console"),
        );
        let file = self.folder.join("vm.xml");
        fs::write(&file, text).expect("a domain");
        file
    }

    /// Runs the domain to its end; what its script printed.
    #[track_caller]
    fn run(&self, libvirt: &Instance, file: &Path) -> String {
        libvirt.virsh(["define".as_ref(), file.as_os_str()]);
        libvirt.virsh(["start", "vm"]);
        libvirt.wait_for("vm", "shut off");
        libvirt.virsh(["undefine", "vm"]);
        let said = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let (out, errors, status) = (said("out"), said("err"), said("status"));
        assert_eq!(status.trim(), "0", "the guest says {errors}\n{out}\n{}", said("console"));
        for name in ["out", "err", "status", "console"] {
            fs::remove_file(self.folder.join(name)).expect("the guest's output");
        }
        out
    }
}

fn fsdev(socket: &Path, id: &str, more: &str) -> String {
    format!("proxy,id={id},socket={}{more}", socket.display())
}

#[test]
fn a_guest_sees_the_same_share_in_the_same_slot() {
    let libvirt = Instance::start();
    for (machine, addresses) in
        [("pc", ["bus=pci.0,addr=0x1d", "addr=1e.0"]), ("q35", ["bus=pcie.0,addr=0x12", "addr=13"])]
    {
        let guest = Machine::new(&libvirt.scratch().join("guest"), SCRIPT);
        let export = scratch();
        fs::write(export.path().join("hello"), "hello\n").expect("a file");
        let sockets = [libvirt.scratch().join("a.sock"), libvirt.scratch().join("b.sock")];
        let helpers = sockets.clone().map(|socket| {
            let helper = Launch::new(&ours(), export.path()).by_socket(&socket);
            wait_until("the socket", || socket.exists());
            helper
        });
        let original = guest.domain(
            machine,
            &[
                "-fsdev".into(),
                fsdev(&sockets[0], "fs0", ""),
                "-device".into(),
                format!("virtio-9p-pci,fsdev=fs0,mount_tag=share,{}", addresses[0]),
                "-fsdev".into(),
                fsdev(&sockets[1], "fs1", ",readonly=on"),
                "-device".into(),
                format!("virtio-9p-pci,fsdev=fs1,mount_tag=readonly,{}", addresses[1]),
            ],
        );
        let over_proxy = guest.run(&libvirt, &original);
        drop(helpers);
        for name in ["new", "link"] {
            fs::remove_file(export.path().join(name)).expect("what the guest made");
        }
        let exports = ["share", "readonly"].map(|tag| format!("--export={tag}={}", export.path().display()));
        let output = config(&original, &["--in-place", &exports[0], &exports[1]]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let over_local = guest.run(&libvirt, &original);
        assert!(
            over_proxy.contains("tag share at pci0000:00/0000:00:1") && over_proxy.contains("read-only"),
            "{over_proxy}"
        );
        assert_eq!(over_local, over_proxy, "{machine}");
        // It is mapped: on the host the link is a plain file.
        assert!(fs::symlink_metadata(export.path().join("link")).expect("the guest's link").is_file());
    }
}

/// A saved image can't gain an element: its argument changes, in the image itself, and libvirt restores it.
#[test]
fn a_saved_image_is_restored_without_the_proxy() {
    let libvirt = Instance::start();
    let script = "share later /mnt/later; cat /mnt/later/hello";
    let guest = Machine::new(&libvirt.scratch().join("guest"), script);
    fs::write(guest.folder.join("root/rig/settings"), "RIG_MOUNT=no\nRIG_MOUNT_OPTIONS=''\n")
        .expect("settings");
    let guest = Machine { folder: repacked(&guest.folder) };
    let export = scratch();
    fs::write(export.path().join("hello"), "hello\n").expect("a file");
    let socket = libvirt.scratch().join("a.sock");
    let helper = Launch::new(&ours(), export.path()).by_socket(&socket);
    wait_until("the socket", || socket.exists());
    let original = guest.domain(
        "pc",
        &[
            "-fsdev".into(),
            fsdev(&socket, "fs0", ""),
            "-device".into(),
            "virtio-9p-pci,fsdev=fs0,mount_tag=later,addr=0x1d".into(),
        ],
    );
    // QEMU saves no guest that has mounted a share: this one starts to run when it is restored.
    libvirt.virsh(["create".as_ref(), "--paused".as_ref(), original.as_os_str()]);
    let image = libvirt.scratch().join("vm.save");
    libvirt.virsh(["save".as_ref(), "vm".as_ref(), image.as_os_str()]);
    drop(helper);
    let export_option = format!("--export=later={}", export.path().display());
    let output = config(&image, &["--in-place", &export_option]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dumped = libvirt.virsh(["save-image-dumpxml".as_ref(), image.as_os_str()]);
    let expected = format!("local,id=fs0,path={},security_model=mapped-xattr", export.path().display());
    assert!(dumped.contains(&expected), "{dumped}");
    libvirt.virsh(["restore".as_ref(), "--running".as_ref(), image.as_os_str()]);
    libvirt.wait_for_end("vm");
    let said = |name: &str| fs::read_to_string(guest.folder.join(name)).unwrap_or_default();
    assert_eq!(said("out"), "hello\n", "{}\n{}", said("err"), said("console"));
}

fn repacked(folder: &Path) -> PathBuf {
    let packed = Command::new("sh")
        .args(["-euc", r#"cd "$0/root"; find . | cpio --quiet -o -H newc -R 0:0 | cat "$("$1")/initramfs.cpio" - >"$0/initramfs.cpio""#])
        .arg(folder)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/image"))
        .status()
        .expect("sh");
    assert!(packed.success(), "packing the guest's files");
    folder.to_owned()
}
