#!/bin/sh
D=/run
SOCK=$D/vm.sock
OPTS="-fsdev local,id=fs0,path=/srv/data,security_model=mapped-xattr,readonly=on"
OPTS="$OPTS -device virtio-9p-pci,fsdev=fs0,mount_tag=data"
exec qemu-system-x86_64 $OPTS
