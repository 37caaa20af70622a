# shellcheck shell=dash
# What an access=any mount does: every request carries uid -1. Ended the C helper's service (see its defect 1).

set -e
mkdir "$FOLDER"
cd "$FOLDER"
chmod 777 .
mkdir d
echo x >d/f
chown 1234:567 d/f
su user -c 'mkdir made'
# The server does not learn who asks: what is made is root's.
chmod 777 made
su user -c 'echo hello >made/file'
su user -c 'ln -s file made/link'
mknod device c 1 3
chown -R 1000:1000 made
chmod 4750 made/file
setfacl -m u:1001:r made/file
setfacl -d -m g:2000:rwx made
[ "$(stat -c %u:%g d/f) $(stat -c %u:%g:%a made/file)" = "1234:567 1000:1000:4750" ]
getfacl -n made/file | grep -x user:1001:r--
getfacl -n made | grep -x default:group:2000:rwx
