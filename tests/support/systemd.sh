# Boots a Debian root by its own systemd, as process 1 of namespaces of its own, on an overlay: sourced by the scripts that need one.
# It writes nothing outside of the overlay. It needs root and cgroup version 2.
# shellcheck shell=bash

# Mounts the overlay of a root at WORK/root. Its upper layer is in memory, at WORK/layer: where the caller has mounted one there already,
# what an earlier boot has written is still there.
mount_root() { # WORK ROOT
    local work=$1 root=$1/root device
    mountpoint --quiet "$work/layer" || mount -t tmpfs none "$work/layer"
    mkdir -p "$work/layer/upper" "$work/layer/work"
    mount -t overlay none -o "lowerdir=$2,upperdir=$work/layer/upper,workdir=$work/layer/work" "$root"
    mount -t proc proc "$root/proc"
    # The settings of the kernel are the machine's.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 none "$root/sys/fs/cgroup"
    mount -t tmpfs none "$root/run"
    mount -t tmpfs none "$root/tmp"
    mount -t tmpfs none "$root/dev"
    mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue" "$root/dev/hugepages"
    mount -t devpts none -o newinstance,ptmxmode=666 "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs none "$root/dev/shm"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir -p "$root/out" "$root/run/systemd/system"
    mount --bind "$work/out" "$root/out"
}

# Becomes the root's systemd, which starts driver.target; that ends with driver.service, and the machine with it. The arguments are more
# lines of driver.target's [Unit], and "[Service]" and lines of driver.service's.
start_systemd() { # WORK LOG [LINE...]
    local root=$1/root log=$2 units=$1/root/run/systemd/system
    shift 2
    printf '%s\n' '[Unit]' 'DefaultDependencies=no' 'Requires=driver.service' "$@" >"$units/driver.target"
    printf '%s\n' '[Unit]' 'DefaultDependencies=no' 'SuccessAction=exit-force' 'FailureAction=exit-force' "$@" \
        '[Service]' 'Type=oneshot' 'TimeoutStartSec=infinity' 'StandardOutput=append:/out/log' 'StandardError=inherit' \
        'ExecStart=/bin/sh /out/driver' >"$units/driver.service"
    export container=other
    # The root is the namespace's own, as on a machine: a chroot's mounts have other names outside of it.
    cd "$root" || exit
    pivot_root . .
    umount -l .
    cd /
    exec /lib/systemd/systemd --system --unit=driver.target --show-status=no --log-target="$log"
}

# Runs a script's own `--first WORK ROOT...` as process 1 of namespaces with a group of processes of its own, and waits for its end.
in_namespaces() { # SECONDS SCRIPT WORK ROOT...
    local seconds=$1 script=$2 hierarchy group
    shift 2
    hierarchy=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
    [ -n "$hierarchy" ] || {
        echo "$script: no cgroup version 2 is mounted" >&2
        return 1
    }
    group=$hierarchy/virtfs-systemd.$$
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec timeout "$seconds" unshare -mpfiuC --propagation private "$script" --first "$@"
    ) >"$1/log" 2>&1 || true
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
