#!/bin/sh
cat > /tmp/q.conf <<END
[fsdev "fs0"]
  fsdriver = "proxy"
  socket = "/run/vm.sock"
[device]
  driver = "virtio-9p-pci"
  fsdev = "fs0"
  mount_tag = "data"
END
qemu-system-x86_64 -readconfig /tmp/q.conf
