#!/bin/sh
PRE=local,id=fs0
OPTS="-fsdev $PRE,path=/srv/data,security_model=mapped-xattr,readonly=on"
exec qemu-system-x86_64 $OPTS -device virtio-9p-pci,fsdev=fs0,mount_tag=data
