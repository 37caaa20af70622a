# shellcheck shell=dash
# A working day of a share's: run in the guest by tests/daemon_guest, behind describe.sh.
#
# $FOLDER is a new folder in the share. What can be checked from inside is checked here; what stays behind is
# described at the end, and the host must see the same.

set -e

must() { # EXPECTED ACTUAL WHAT
    if [ "$1" != "$2" ]; then
        echo "$3: expected '$1', found '$2'" >&2
        exit 1
    fi
}

refused() { # WHAT COMMAND…
    what=$1
    shift
    if "$@" 2>/dev/null; then
        echo "$what was not refused" >&2
        exit 1
    fi
}

mkdir "$FOLDER"
cd "$FOLDER"

step() {
    echo "step: $1" >&2
}

step "tree copy"
mkdir copy
cp -a /bin /etc /lib /usr copy/
for part in bin etc lib usr; do
    (cd "/$part" && find . -type f -exec md5sum {} + | sort) >/tmp/before
    (cd "copy/$part" && find . -type f -exec md5sum {} + | sort) >/tmp/after
    cmp /tmp/before /tmp/after
    must "$(cd "/$part" && find . -printf '%y %m %l %p\n' | sort | md5sum)" \
        "$(cd "copy/$part" && find . -printf '%y %m %l %p\n' | sort | md5sum)" "the copy of /$part"
done
copy/bin/busybox true

step "owners"
mkdir owned
echo content >owned/file
ln -s file owned/link
chown -R 1234:567 owned
chown -h 4321:765 owned/link
must "1234:567 4321:765" "$(stat -c %u:%g owned) $(stat -c %u:%g owned/link)" "chown"
chgrp 99 owned/file
must 1234:99 "$(stat -c %u:%g owned/file)" "chgrp"

step "modes"
mkdir modes
for mode in 0000 0400 0644 0755 0777 1755 2755 4755 6711 7777; do
    : >"modes/f$mode"
    chmod "$mode" "modes/f$mode"
    mkdir "modes/d$mode"
    chmod "$mode" "modes/d$mode"
done
(umask 077 && : >modes/private && mkdir modes/private.d)
must "600 700" "$(stat -c %a modes/private) $(stat -c %a modes/private.d)" "umask"
mkdir modes/team
chown 0:2000 modes/team
chmod 2775 modes/team
: >modes/team/file
mkdir modes/team/folder
must "0:2000 2755" "$(stat -c '%u:%g' modes/team/file) $(stat -c %a modes/team/folder)" "a setgid folder"

step "special files"
mkdir special
mknod special/null c 1 3
mknod special/disk b 259 65537
mkfifo special/fifo
chmod 640 special/fifo
chown 7:8 special/disk
must "c 1,3 b 103,10001 p" \
    "c $(stat -c %t,%T special/null) b $(stat -c %t,%T special/disk) $(find special/fifo -printf %y)" "mknod"

step "symbolic links"
mkdir links
ln -s ../owned/file links/relative
ln -s /etc/passwd links/absolute
ln -s nowhere links/dangling
ln -s loop links/loop
long=$(head -c 4000 /dev/zero | tr '\0' x)
ln -s "$long" links/long
must content "$(cat links/relative)" "a relative link"
must "$long" "$(readlink links/long)" "a long link"
# The guest resolves its own links: this one is the guest's own file.
must "$(head -n 1 /etc/passwd)" "$(head -n 1 links/absolute)" "an absolute link"
refused "a loop" cat links/loop

step "hard links"
mkdir hard
echo one >hard/a
ln hard/a hard/b
ln hard/b hard/c
echo two >>hard/c
must "3 one two" "$(stat -c %h hard/a) $(tr '\n' ' ' <hard/a | sed 's/ $//')" "hard links"
rm hard/b
must 2 "$(stat -c %h hard/a)" "hard links after rm"

step "renames"
mkdir -p rename/from/deep rename/to rename/empty
echo old >rename/to/file
echo new >rename/from/file
mv -f rename/from/file rename/to/file
must new "$(cat rename/to/file)" "rename over a file"
echo inside >rename/from/deep/file
mv -T rename/from rename/empty
must inside "$(cat rename/empty/deep/file)" "rename over an empty folder"
refused "rename over a full folder" mv -T rename/to rename/empty
exec 5<rename/to/file
mv rename/to rename/moved
must new "$(cat <&5)" "reading from a file whose folder moved"
exec 5<&-

step "extended attributes"
mkdir xattrs
: >xattrs/file
setfattr -n user.plain -v value xattrs/file
setfattr -n user.gone -v x xattrs/file
setfattr -n user.binary -v 0x00ff0a00 xattrs/file
refused "a trusted xattr" setfattr -n trusted.mark -v secret xattrs/file
setfattr -n user.big -v "$(head -c 3000 /dev/zero | tr '\0' y)" xattrs/file
setfattr -n user.folder -v "on a folder" xattrs
must value "$(getfattr --only-values -n user.plain xattrs/file)" "an xattr"
must 0x00ff0a00 "$(getfattr -e hex -n user.binary xattrs/file | sed -n 's/^user.binary=//p')" "a binary xattr"
setfattr -n user.plain -v changed xattrs/file
setfattr -x user.gone xattrs/file
must "user.big user.binary user.plain" \
    "$(getfattr -m - xattrs/file | grep -v -e '^#' -e '^$' | sort | tr '\n' ' ' | sed 's/ *$//')" "the list of xattrs"
refused "a missing xattr" getfattr -n user.none xattrs/file

step "sizes"
mkdir sizes
seq 10000 >sizes/file
truncate -s 100 sizes/file
must 100 "$(stat -c %s sizes/file)" "truncate"
truncate -s 5000000 sizes/file
must "5000000 $( (seq 10000 | head -c 100; head -c 4999900 /dev/zero) | md5sum)" \
    "$(stat -c %s sizes/file) $(md5sum <sizes/file)" "truncate to more"
: >sizes/empty
echo 1 >sizes/over
echo 22 >sizes/over
must 22 "$(cat sizes/over)" "writing over"
dd if=/dev/zero of=sizes/hole bs=1 count=1 seek=100000000 2>/dev/null

step "times"
mkdir times
: >times/file
touch -d '1970-01-01 00:00:01' times/file
: >times/late
touch -d '2040-02-29 01:02:03' times/late
ln -s file times/link
touch -h -d '2001-02-03 04:05:06' times/link
must "1 2214090123 981173106" "$(stat -c %Y times/file) $(stat -c %Y times/late) $(stat -c %Y times/link)" "times"

step "names"
mkdir names
: >"names/$(printf 'not \377 UTF-8')"
: >"names/$(printf 'new\nline')"
: >"names/ spaces  and 'quotes\" \\"
: >"names/-rf"
: >"names/$(head -c 255 /dev/zero | tr '\0' n)"
refused "a name of 256 bytes" touch "names/$(head -c 256 /dev/zero | tr '\0' n)"
must 5 "$(find names -type f -print0 | tr -cd '\0' | wc -c)" "the names"

step "users"
mkdir users
chmod 1777 users
su user -c 'mkdir users/mine && echo hello >users/mine/file && ln -s file users/mine/link && mkfifo users/mine/fifo'
must "1000:1000 1000:1000 1000:1000" \
    "$(stat -c %u:%g users/mine) $(stat -c %u:%g users/mine/file) $(stat -c %u:%g users/mine/link)" "a user's files"
: >users/roots
chmod 600 users/roots
refused "reading root's file" su user -c 'cat users/roots'
refused "removing root's file" su user -c 'rm -f users/roots'
refused "giving a file away" su user -c 'chown other users/mine/file'

step "concurrent writers"
mkdir writers
for writer in 1 2 3 4 5 6; do
    (
        i=0
        while [ $i -lt 40 ]; do
            i=$((i + 1))
            echo "writer $writer line $i" >>writers/shared
            mkdir "writers/$writer.$i"
            echo "$i" >"writers/$writer.$i/new"
            mv "writers/$writer.$i/new" "writers/$writer.$i/file"
            [ $((i % 2)) = 0 ] || rm -r "writers/$writer.$i"
        done
    ) &
done
wait
must "120 240" "$(find writers -name file | wc -l) $(sort -u writers/shared | wc -l)" "the writers' files"

step "small files"
# As git stores objects: written under a temporary name, made read-only, renamed to the name of their content.
mkdir -p objects
i=0
while [ $i -lt 200 ]; do
    i=$((i + 1))
    echo "object $i" >objects/tmp
    name=$(printf '%02x/%038x' $((i % 32)) "$i")
    mkdir -p "objects/${name%/*}"
    chmod 444 objects/tmp
    mv objects/tmp "objects/$name"
done
must "200 32" "$(find objects -type f | wc -l) $(find objects -mindepth 1 -type d | wc -l)" "the objects"
cat objects/*/* | sort >packed
must 200 "$(wc -l <packed)" "the packed objects"
rm -rf objects/0?
must 0 "$(find objects -name '0?' | wc -l)" "removed objects"

step "unlinked while open"
echo kept >unlinked
exec 5<>unlinked
rm unlinked
echo more >&5
exec 5>&-
[ ! -e unlinked ]

step "a file of 1 GiB"
# Every MiB starts with its own number.
dd if=/dev/zero of=large bs=1M count=1024 2>/dev/null
i=0
while [ $i -lt 1024 ]; do
    printf 'MiB %04d' "$i" | dd of=large bs=1M seek="$i" conv=notrunc 2>/dev/null
    i=$((i + 64))
done
must 1073741824 "$(stat -c %s large)" "the large file"
must "MiB 0960" "$(dd if=large bs=1M skip=960 count=1 2>/dev/null | head -c 8)" "the large file's end"
must 1073741824 "$(dd if=large bs=1M 2>/dev/null | wc -c)" "reading the large file"

step "the file system"
must 255 "$(stat -f -c %l .)" "the length of names"
[ "$(stat -f -c %b .)" -gt 0 ]

step "removing"
rm -rf copy/usr modes/d0000
[ ! -e copy/usr ]

describe .
