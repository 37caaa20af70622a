#!/bin/bash
SOCK=/run/vm.sock
/usr/lib/qemu/virtfs-proxy-helper -p /srv/data -s $SOCK -u 0 -g 0 &
exec qemu-system-x86_64 -m 1G \
  -fsdev "proxy,id=fs0,socket=$SOCK" \
  -device virtio-9p-pci,fsdev=fs0,mount_tag=data
