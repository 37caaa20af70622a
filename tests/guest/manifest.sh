# shellcheck shell=dash
# manifest FOLDER: everything that can be seen of every entry below it, one line each but for odd names: type, mode,
# owner, links, size, time of modification, target; device numbers; checksums of files that are not too large; all
# extended attributes of all namespaces, ACLs among them. Made of standard tools alone.

manifest() {
    (
        cd "$1" || exit 1
        export LC_ALL=C
        # The size and the links of a folder are the host file system's own business. Times of access change by reading.
        find . -type d -printf '%p %y %m %U:%G %T@\n' | sort
        find . ! -type d -printf '%p %y %m %U:%G %n %s %T@ %l\n' | sort
        find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort
        # GNU's and busybox's md5sum print odd names differently.
        find . -type f -size -6000k -print0 | sort -z | xargs -0 -n 200 cat | md5sum
        find . -type f -size -6000k ! -path '*names*' -exec md5sum {} + | sort
        find . -print0 | sort -z | xargs -0 getfattr -h -m - -d -e hex 2>&1
    )
}
