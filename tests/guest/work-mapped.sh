# shellcheck shell=dash
# A guest's work in a tree that was converted under it: run in $FOLDER, which tests/gnarly-tree filled, behind manifest.sh.
# What the guest sees afterwards is its manifest; after a rollback the proxy must show the same.

must() { # EXPECTED ACTUAL WHAT
    if [ "$1" != "$2" ]; then
        echo "$3: expected '$1', found '$2'" >&2
        exit 1
    fi
}

work() {
    set -e
    # shellcheck disable=SC2153 # whoever calls this sets it
    cd "$FOLDER"

    # Owners and modes, of what was there and of what is new.
    chown 5:6 owners/file-0:0 owners/folder-0:0
    chown -h 7:8 owners/link-0:0
    chown 9:10 special/disk
    chmod 4711 modes/file-0644
    chmod 0 modes/folder-0755
    chmod 2751 modes/folder-0000
    chmod 0600 special/null
    must "5:6 7:8 9:10" "$(stat -c %u:%g owners/file-0:0 owners/link-0:0 special/disk | tr '\n' ' ' | sed 's/ $//')" chown
    must "4711 0 2751" "$(stat -c %a modes/file-0644 modes/folder-0755 modes/folder-0000 | tr '\n' ' ' | sed 's/ $//')" chmod

    # New entries of every kind, in an old folder and in a new one.
    for folder in folders/empty new; do
        [ -d "$folder" ] || mkdir "$folder"
        echo "by the guest" >"$folder/file"
        mkdir "$folder/sub"
        mknod "$folder/device" b 8 17
        mknod "$folder/char" c 511 4095
        mkfifo "$folder/fifo"
        ln -s ../target "$folder/link"
        ln "$folder/file" "$folder/linked"
        chown 1000:1001 "$folder/file" "$folder/sub" "$folder/device"
        chown -h 1000:1001 "$folder/link"
        chmod 4750 "$folder/file"
        chmod 1777 "$folder/sub"
        touch -d '2001-02-03 04:05:06.789' "$folder/file"
    done
    must "8:11 1ff:fff" "$(stat -c %t:%T new/device new/char | tr '\n' ' ' | sed 's/ $//')" mknod
    must ../target "$(readlink new/link)" "a new symbolic link"

    # Names.
    mv symlinks/relative symlinks/moved
    mv special/elsewhere special/there
    mv -f attributes/one attributes/empty
    mv folders/chain new/chain
    ln symlinks/dangling new/dangling-too
    ln special/fifo new/fifo-too
    rm special/null-again special/socket names/-rf hard-links/a/none
    rm -r names/folders
    rmdir folders/closed/inner 2>/dev/null && exit 1
    rm -rf folders/closed
    must file "$(readlink symlinks/moved)" "a link that moved"

    # Contents and times.
    echo more >>contents/data
    : >contents/one
    truncate -s 10 contents/empty
    touch -d '1965-04-03 02:01:00.5' times/file0
    touch -h -d '2040-01-01 00:00:00' symlinks/dangling

    # ACLs and attributes.
    setfacl -m u:7:rw acls/access
    setfacl -b acls/masked
    setfacl -d -m g:9:rx acls/both
    setfacl -m u:7:rwx new/sub
    setfattr -n user.new -v value attributes/binary
    setfattr -n user.binary -v changed attributes/binary
    setfattr -x user.a attributes/all
    setfattr -n user.on-folder -v other attributes/folder
    getfacl -n acls/access | grep -qx user:7:rw-
    getfacl -n acls/both | grep -qx default:group:9:r-x
    must value "$(getfattr --only-values -n user.new attributes/binary)" "a new attribute"
}
