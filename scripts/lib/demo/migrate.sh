# shellcheck shell=bash
# The demo's steps from the proxy backend to `local`, and back.

# Shows a command that ends with that status.
shown_status() { # STATUS COMMAND…
    local wanted=$1 got=0
    shift
    shown "$@" || got=$?
    [ "$got" = "$wanted" ] || die "it ended with $got instead of $wanted: $*"
}

# 4: in a container the host's processes are not seen. Nothing but the demo uses the demo's export.
shown_seen() { # COMMAND…, the program's
    local got=0
    shown virtfs-proxy-helper "$@" || got=$?
    case $got in 0 | 4) ;; *) die "it ended with $got instead of 0: $*" ;; esac
}

# What a guest said of every entry: its lines that start so, without what the demo puts in front.
entries_in() { # FILE
    sed -n 's/.*guest: entry: //p' "$1"
}

write_start_script() {
    [ ! -e vm.sh ] || return 0
    cat >vm.sh <<VM
#!/bin/sh
virtfs-proxy-helper --path $PWD/export --socket $PWD/helper.sock --uid nobody --gid nogroup
exec qemu-system-x86_64 -m 512 -fsdev proxy,id=data,socket=$PWD/helper.sock \\
    -device virtio-9p-pci,fsdev=data,mount_tag=data
VM
    chmod 755 vm.sh
}

# QEMU's own words, which lead people here.
start_old_guest() {
    write_start_script
    shown cat vm.sh
    local fsdev
    fsdev=$(sed -n 's/.*-fsdev \([^ ]*\).*/\1/p' vm.sh)
    shown_status 1 qemu-system-x86_64 -machine none -display none -fsdev "$fsdev"
    echo "  \"fsdriver proxy not found\" means: this QEMU was built after the proxy backend had been removed."
}

find_share() {
    write_start_script
    # 3: something was found.
    shown_status 3 virtfs-proxy-helper migrate audit vm.sh
    shown virtfs-proxy-helper migrate config --diff vm.sh
}

check_export() {
    shown_seen migrate check export --owner nobody:nogroup
}

apply_plan() {
    export VIRTFS_STATE=$PWD/state
    shown_seen migrate plan --output plan.yaml vm.sh
    # The change was shown with --diff.
    shown_seen migrate plan vm.sh | sed -u '/configured in/,/^    export/{ /^    export/!d }'
    shown virtfs-proxy-helper migrate apply plan.yaml --yes
    shown virtfs-proxy-helper migrate status vm.sh
    echo "  On the host all of it is QEMU's user's now; what the guest sees is in attributes:"
    shown ls -lnR export/srv
    shown getfattr -d -e hex export/srv/null
}

work_without_helper() {
    local fsdev device
    fsdev=$(sed -n 's/.*-fsdev \([^ ]*\).*/\1/p' vm.sh)
    device=$(sed -n 's/.*-device \([^ ]*\).*/\1/p' vm.sh)
    echo "  QEMU runs as nobody, without a helper, with -fsdev $fsdev"
    shown_in_guest --user nobody --qemu-arg -fsdev --qemu-arg "$fsdev" --qemu-arg -device --qemu-arg "$device" \
        <<'GUEST' | tee local.log
cd /mnt/data
find . -printf 'entry: %y %m %U:%G %n %p %l\n' | sort
stat -c 'entry: %n %t,%T' srv/null
chown 1000:2000 srv/team/report
su user -c 'echo "a line through local" >>home/ada/notes'
mknod srv/disk b 8 1
ln -s team/report srv/report
ls -lnR srv
GUEST
    entries_in proxy.log >proxy.entries
    entries_in local.log >local.entries
    shown diff proxy.entries local.entries
    [ -s local.entries ] || die "the guest said nothing of its entries"
    echo "  Not one of its $(wc -l <local.entries) lines has changed."
}

undo_plan() {
    shown virtfs-proxy-helper migrate undo plan.yaml --yes
    grep -q -- '-fsdev proxy' vm.sh || die "the script is not as it was"
    shown ls -lnR export/srv
    shown cat export/home/ada/notes
    local found
    found=$(cd export && stat -c '%n %u:%g %a %t,%T' srv/team srv/team/report srv/null srv/disk && readlink srv/report)
    [ "$found" = "srv/team 0:2000 2775 0,0
srv/team/report 1000:2000 644 0,0
srv/null 0:0 644 1,3
srv/disk 0:0 644 8,1
team/report" ] || die "the host sees something else than the guest made: $found"
    [ "$(stat -c %u:%g export/srv/report)" = 0:0 ] || die "the new link has another owner"
}
