#!/bin/sh
D=/run
SOCK=$D/vm.sock
OPTS="-fsdev proxy,id=fs0,socket=$SOCK,readonly=on"
OPTS="$OPTS -device virtio-9p-pci,fsdev=fs0,mount_tag=data"
exec qemu-system-x86_64 $OPTS
