# shellcheck shell=dash
# describe FOLDER: every entry below it, one line each with its type, mode, owner, links, size, target and time, then
# device numbers, checksums of files of at most 6 MB, and all user xattrs. Guest and host must give the same.

describe() {
    (
        cd "$1" || exit 1
        export LC_ALL=C
        # A folder's size is the host file system's own business.
        find . -mindepth 1 -type d -printf '%p %y %m %U:%G %n %T@\n' | sort
        find . -mindepth 1 ! -type d -printf '%p %y %m %U:%G %n %s %T@ %l\n' | sort
        find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort
        # GNU's and busybox's md5sum print odd names differently.
        find . -path ./names -prune -o -type f -size -6000k -exec md5sum {} + | sort
        find . \( -type f -o -type d \) -print0 | sort -z | xargs -0 getfattr -h -m '^user' -d -e hex 2>&1
    )
}
