# shellcheck shell=dash
# What a guest finds of what the host adds while it runs, in $FOLDERS, behind work-mapped.sh: nothing that it can use, and all of it once
# the host has adopted it. The files through which the two speak are in the first of the folders.

appears() { # FILE: waits for what the host makes
    until [ -e "$1" ]; do sleep 1; done
}

fails() { # COMMAND…: what must not succeed
    if "$@" 2>/dev/null; then
        echo "before it was adopted, this succeeded: $*" >&2
        exit 1
    fi
}

unused() {
    fails cat added/file
    fails cat added/second
    fails chown 5:6 added/file
    fails readlink added/link
    fails touch added/new
}

used() {
    must "by the host" "$(cat added/file)" "content of what was adopted"
    must "1234:1235 640" "$(stat -c '%u:%g %a' added/file)" "owner and mode of a file"
    must "0:0 755" "$(stat -c '%u:%g %a' added)" "owner and mode of a directory"
    must "../somewhere 77:78" "$(readlink added/link) $(stat -c %u:%g added/link)" "a symbolic link"
    must "character special file 1:3" "$(stat -c '%F %t:%T' added/null)" "a device"
    echo "and by the guest" >>added/file
    must "and by the guest" "$(tail -n 1 added/file)" "writing"
    chown 5:6 added/second
    chmod 4711 added/second
    must "5:6 4711" "$(stat -c '%u:%g %a' added/second)" "chown and chmod"
    mkdir added/new
    ln -s ../new-target added/new/link
    ln added/file added/new/linked
    mv added/null added/new/null
}

adopted() {
    set -e
    # shellcheck disable=SC2153 # whoever calls this sets it
    first=${FOLDERS%% *}
    touch "$first/ready"
    appears "$first/all-added"
    for folder in $FOLDERS; do (cd "$folder" && unused) || exit 1; done
    touch "$first/tried"
    appears "$first/all-adopted"
    for folder in $FOLDERS; do (cd "$folder" && used) || exit 1; done
    rm "$first/ready" "$first/tried" "$first/all-added" "$first/all-adopted"
}
