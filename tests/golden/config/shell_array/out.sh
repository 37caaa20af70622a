#!/bin/bash
opts=(-m 1G)
TAG=data
opts+=( -fsdev "local,id=fs0,path=/srv/data,security_model=mapped-xattr,readonly=on"  # the share
        -device "virtio-9p-pci,fsdev=fs0,mount_tag=$TAG" )
qemu-system-x86_64 "${opts[@]}" "$@"
