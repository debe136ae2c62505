# In the virtual machine: which answers of the kernel's own target (LIO), and of tgtd over the same disks, prove
# that an old write is dead. Node A's disk can be suspended (device mapper), nodes B and C reach the same blocks past
# it, all without a page cache in between. The questions are asked by the host's own test program (guest-tests).
cd "$(dirname "$0")" || exit 1
. ./lib.sh

# No udev here: dmsetup makes the device nodes itself.
export DM_DISABLE_UDEV=1
ram_disks
modprobe -a dm_mod target_core_mod target_core_iblock iscsi_target_mod || die "no modules"
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
size=$((16 * 1024 * 1024))
for disk in slow fast spare; do
  dmsetup create "$disk" --table "0 $((size / 512)) linear /dev/ram0 0" || die "no device $disk"
done

number=0 portals='' targets=''
for disk in slow fast spare; do
  address=127.0.0.4$((number + 1)) target=iqn.2026-11.test.lio:proofs$number
  lio_disk $number $address $target $disk mpio-proofs-0001
  portals="$portals $address:3260" targets="$targets $target"
  number=$((number + 1))
done
say "LIO of $(uname -r)"
for test in answers_that_prove a_reset_beside_a_write_that_owes_data; do
  portals=$portals targets=$targets \
    timeout 200 ./guest-tests --ignored --exact --nocapture guest::$test || die "LIO does not answer as the table says"
done
say "proofs.sh passed in $SECONDS s"
