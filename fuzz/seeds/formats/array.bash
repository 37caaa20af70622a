#!/bin/bash
args=( -m 1G )
args+=( -fsdev "proxy,id=fs0,socket=/run/a.sock" )
if x; then
  args+=(-device virtio-9p-pci,fsdev=fs0,mount_tag='t')
fi
qemu-system-x86_64 "${args[@]}" <<EOF
nothing
EOF
case $1 in a) qemu -virtfs proxy,id=fs1,mount_tag=share,sock_fd=$FD ;; esac
