#!/bin/sh
qemu-system-x86_64 -fsdev local,id=fs0,path=/srv/data,security_model=mapped-xattr -device virtio-9p-pci,fsdev=fs0,mount_tag=data
