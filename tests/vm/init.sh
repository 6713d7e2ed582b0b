#!/bin/busybox sh
# PID 1 of the virtual machine. Mounts the host's tree read-only, runs /share/command in it, leaves its exit code in
# /share/code and turns the machine off. What it must never do: write anything of the host's but /share.
bb=/bin/busybox
$bb mount -t proc proc /proc
while read -r module; do $bb insmod "/modules/$module" || echo "init: no module $module"; done < /modules/order

nine=trans=virtio,version=9p2000.L,msize=512000
# cache=loose: the guest asks the host once for what it has read, which makes imports bearable.
$bb mount -t 9p -o $nine,cache=loose,ro host /host || echo 'init: the tree of the host cannot be mounted'
$bb mount -t proc proc /host/proc
$bb mount -t sysfs sys /host/sys
$bb mount -t devtmpfs dev /host/dev
$bb mkdir -p /host/dev/shm /host/dev/pts
$bb ln -s /proc/self/fd /host/dev/fd
$bb mount -t tmpfs tmp /host/dev/shm
$bb mount -t devpts pts /host/dev/pts
$bb mount -t tmpfs tmp /host/tmp
$bb mount -t tmpfs tmp /host/run
$bb mount -t cgroup2 -o nsdelegate,memory_recursiveprot none /host/sys/fs/cgroup  # as systemd mounts it
$bb mkdir /host/tmp/home /host/tmp/share /host/tmp/disk
# A file on tmpfs is memory; what is to show page cache is written here.
$bb chroot /host /sbin/mke2fs -q -t ext4 /dev/vda && $bb mount -t ext4 /host/dev/vda /host/tmp/disk
$bb mount -t 9p -o $nine,cache=none share /host/tmp/share
$bb ifconfig lo 127.0.0.1 up

$bb chroot /host /bin/sh /tmp/share/command < /host/dev/null
echo $? > /host/tmp/share/code
$bb sync
$bb poweroff -f
