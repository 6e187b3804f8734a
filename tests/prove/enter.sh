# enter.sh ROOT QEMU FOLDER COMMAND...: runs a command in an AArch64 root, its programs by QEMU, with FOLDER as /mnt.
# In namespaces of its own (unshare --user --map-root-user --mount): nothing is mounted or registered outside.
set -e
root=$1 qemu=$2 folder=$3
shift 3
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
elf='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s\n' ":arm64:M::$elf:$mask:$qemu:F" >/proc/sys/fs/binfmt_misc/register
mount --rbind /dev "$root/dev"
mount --bind "$folder" "$root/mnt"
exec chroot "$root" "$@"
