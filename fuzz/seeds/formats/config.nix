virtualisation.qemu.options = [ "-virtfs proxy,id=fs0,mount_tag=t,socket=/run/a.sock" ];
