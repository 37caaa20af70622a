# shellcheck shell=bash
# The demo's steps around the helper daemon.

# What start_helper, work_in_guest and the guest's shutdown leave, made by hand.
make_old_export() {
    make_export
    (
        cd export || exit
        mkdir -p srv/team
        chown root:2000 srv/team
        chmod 2775 srv/team
        echo shared >srv/team/report
        chown 1001:2000 srv/team/report
        chmod 644 srv/team/report
        mknod srv/null c 1 3
        chmod 644 srv/null
        echo "a line of the guest's" >>home/ada/notes
    )
    shown ls -lnR export/srv
    # As the guest of the proxy would list them.
    (
        cd export || exit
        find . -printf 'guest: entry: %y %m %U:%G %n %p %l\n' | LC_ALL=C sort
        stat -c 'guest: entry: %n %t,%T' srv/null
    ) >proxy.log
}

make_export() {
    mkdir -p export/home/ada
    echo "notes of Ada's" >export/home/ada/notes
    chown -R 1000:1000 export/home/ada
    chmod 640 export/home/ada/notes
    ln -s home/ada/notes export/latest
    shown ls -lnR export
}

start_helper() {
    shown virtfs-proxy-helper --path export --socket helper.sock --uid nobody --gid nogroup --pid-file helper.pid
    shown ls -ln helper.sock
    # What root's process has kept of root's privileges.
    shown getpcaps "$(cat helper.pid)"
    shown grep NoNewPrivs "/proc/$(cat helper.pid)/status"
}

work_in_guest() {
    echo "  QEMU runs as nobody; root in the guest still gives files away and makes devices:"
    shown_in_guest --user nobody --share "data=proxy,socket=helper.sock" <<'GUEST' | tee proxy.log
cd /mnt/data
cat latest
su user -c 'cat home/ada/notes && echo "a line of the guest'"'"'s" >>home/ada/notes'
mkdir -p srv/team
chown root:team srv/team
chmod 2775 srv/team
su other -c 'echo shared >srv/team/report'
mknod srv/null c 1 3
setfattr -n user.origin -v guest srv/team/report
find . -printf 'entry: %y %m %U:%G %n %p %l\n' | sort
stat -c 'entry: %n %t,%T' srv/null
GUEST
}

look_at_host() {
    shown ls -lnR export/srv
    shown getfattr -d export/srv/team/report
    shown cat export/home/ada/notes
    local found
    found=$(cd export && stat -c '%n %u:%g %a %t,%T' srv/team srv/team/report srv/null)
    [ "$found" = "srv/team 0:2000 2775 0,0
srv/team/report 1001:2000 644 0,0
srv/null 0:0 644 1,3" ] || die "the host sees something else than the guest made: $found"
}

end_helper() {
    local tries
    # It ends with its client, as the original does; --persistent would keep it.
    for ((tries = 0; tries < 1200; tries++)); do
        [ -e helper.pid ] || break
        sleep 0.1
    done
    [ ! -e helper.pid ] || die "the helper still runs as $(cat helper.pid)"
    shown ls -A
    [ ! -e helper.sock ] || die "the socket is still there"
}
