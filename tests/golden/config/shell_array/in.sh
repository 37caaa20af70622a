#!/bin/bash
opts=(-m 1G)
TAG=data
opts+=( -fsdev "proxy,id=fs0,socket=/run/$TAG.sock,readonly=on"  # the share
        -device "virtio-9p-pci,fsdev=fs0,mount_tag=$TAG" )
qemu-system-x86_64 "${opts[@]}" "$@"
