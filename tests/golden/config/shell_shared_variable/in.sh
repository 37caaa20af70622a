#!/bin/sh
PRE=proxy,id=fs0
OPTS="-fsdev $PRE,socket=/x,readonly=on"
exec qemu-system-x86_64 $OPTS -device virtio-9p-pci,fsdev=fs0,mount_tag=data
