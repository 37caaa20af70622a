#!/bin/sh
SOCK=/run/a.sock
virtfs-proxy-helper -p /srv/a -s $SOCK -u 107 -g 107 &
exec qemu-system-x86_64 \
  -m 512 -fsdev proxy,id=fs0,socket=/run/a.sock \
  -device virtio-9p-pci,fsdev=fs0,mount_tag=t
