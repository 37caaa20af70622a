# shellcheck shell=dash
# A little of everything, run in the guest as its users root and user in a folder of the share's; see tests/daemon_guest.

set -e
mkdir "$FOLDER"
cd "$FOLDER"
chmod 1777 .
mkdir d
echo x >d/f
chown 1234:567 d/f
chmod 4755 d/f
su user -c 'mkdir mine && echo hello >mine/file && ln -s file mine/link && mkfifo mine/fifo'
chgrp -R team mine
setfattr -n user.mark -v y mine/file
mv d/f mine/f
ln mine/f again
truncate -s 3 mine/file
if su user -c 'rm -f again' 2>/dev/null; then
    echo "a user removed root's file from a sticky folder" >&2
    exit 1
fi
[ "$(stat -c %u:%g:%a:%h again) $(stat -c %u:%g:%s mine/file)" = "1234:567:4755:2 1000:2000:3" ]
