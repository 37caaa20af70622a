#!/bin/sh
qemu-system-x86_64 -fsdev proxy,id=fs0,socket=$1 -device virtio-9p-pci,fsdev=fs0,mount_tag=data
