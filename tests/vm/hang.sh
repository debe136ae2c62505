# In the virtual machine: a disk that hangs behind a target that answers pings, for real: a suspended device-mapper
# device under LIO. fio reads and writes all the time, no block twice; how long the longest of each waited is shown as
# a share of the setting that bounds it, because emulation is slow and the settings are long for that.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

export DM_DISABLE_UDEV=1
ram_disks
modprobe -a dm_mod target_core_mod target_core_iblock iscsi_target_mod || die "no modules"
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
size=$((16 * 1024 * 1024))
for disk in hang_a hang_b; do
  dmsetup create "$disk" --table "0 $((size / 512)) linear /dev/ram0 0" || die "no device $disk"
done
a=iqn.2026-11.test.hang:ha1 b=iqn.2026-11.test.hang:ha1partner
lio_disk 70 127.0.0.71 "$a" hang_a mpio-hang-0001
lio_disk 71 127.0.0.72 "$b" hang_b mpio-hang-0001

path_timeout=10 command_timeout=20
configure iqn.2026-11.test.vm:hang 127.0.0.71@127.0.0.1 127.0.0.72@127.0.0.1 \
  'lun = 1' 'policy = "round-robin"' "path_timeout = \"${path_timeout}s\"" "command_timeout = \"${command_timeout}s\""
lio_open_discovery
start_daemon
say "the device is up"

uri="nbd+unix:///vm0?socket=$run/vm0.sock"
half=$((size / 2))
(cd "$run" && timeout 120 fio --ioengine=nbd "--uri=$uri" --bs=4k --iodepth=8 --time_based --runtime=40 --rate_iops=40 \
  --output-format=json --output="$run/fio.json" "--size=$half" \
  --name=reads --rw=randread --name=writes --rw=randwrite "--offset=$half") >"$run/fio.log" 2>&1 &
fio=$!
started+=("$fio")
sleep 9
dmsetup suspend --noflush --nolockfs hang_a || die "cannot suspend"
say "the disk of A hangs"
wait_for 30 "path a:ha1 leaving active" path_is_not a:ha1 active
sleep $((command_timeout + 3))
dmsetup resume hang_a || die "cannot resume"
say "the disk of A is back"
wait "$fio" || die "fio failed: $(tail -n 5 "$run/fio.log")"
wait_for 60 "path a:ha1 active again" path_is a:ha1 active
jq -e 'all(.jobs[]; .error == 0)' "$run/fio.json" >/dev/null || die "fio saw errors"
status_says '.devices[0].errors == 0' || die "the device counts errors given to its users"
longest() { jq "[.jobs[] | select(.jobname == \"$1\") | .$2.clat_ns.max] | max / 1e6 | round" "$run/fio.json"; }
reads=$(longest reads read) writes=$(longest writes write)
say "| disk of A hangs 23 s and more, LIO $(uname -r) | longest | setting | ratio |"
say "| read | $reads ms | path_timeout ${path_timeout} s | $((reads / path_timeout / 10)) % |"
say "| write | $writes ms | command_timeout ${command_timeout} s | $((writes / command_timeout / 10)) % |"
[ "$writes" -gt 2000 ] || die "no write was stuck: the fault did not show"
stop_daemon
say "hang.sh passed in $SECONDS s"
