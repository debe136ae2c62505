# In the virtual machine: LOGICAL UNIT RESET beside writes of other sessions, with a real target that never answers
# one that finds such a write waiting for its data, and lets the nexus in no more (LIO of Linux 6.1). One target with
# two portals, two lanes, so four sessions, and long writes all the time; one portal falls silent again and again, so
# that its writes are in doubt and need a reset when it is back. Each time both paths must come back, and no write
# may fail.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

ram_disks
modprobe -a target_core_mod target_core_iblock iscsi_target_mod || die "no modules"
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
size=$((16 * 1024 * 1024))
a=iqn.2026-11.test.beside:ha1 b=
lio_backstore 85 /dev/ram2 mpio-beside-0001
lio_target 127.0.0.85 "$a"
mkdir "/sys/kernel/config/target/iscsi/$a/tpgt_1/np/127.0.0.86:3260" || die "LIO: no second portal"
lio_open_discovery

configure iqn.2026-11.test.vm:beside 127.0.0.85@127.0.0.1 127.0.0.86@127.0.0.1 \
  'lun = 1' 'lanes = 2' 'policy = "round-robin"' 'path_timeout = "4s"' 'command_timeout = "15s"'
sed -i "s/^targets = .*/targets = [\"$a\"]/" "$run/mpio.toml"
# Data that were asked for are on their way for so long.
modprobe sch_netem && tc qdisc add dev lo root netem delay 40ms || die "no netem"
trap 'tc qdisc del dev lo root 2>/dev/null; clean_up' EXIT
start_daemon
say "the device is up, $(status | jq -c '[.devices[0].paths[] | {name, state}]')"
one=$(status | jq -r '.devices[0].paths[] | select(.portal | startswith("127.0.0.85")) | .name')
two=$(status | jq -r '.devices[0].paths[] | select(.portal | startswith("127.0.0.86")) | .name')
[ -n "$one" ] && [ -n "$two" ] || die "the paths are not those of two portals"

uri="nbd+unix:///vm0?socket=$run/vm0.sock"
# fio again and again: each run says whether a request of it failed. Two connections, for two lanes.
write_until_stop() {
  local turns=0
  while [ ! -e "$run/stop" ]; do
    (cd "$run" && timeout 120 fio --ioengine=nbd "--uri=$uri" --bs=1m --iodepth=4 --time_based --runtime=8 \
      --output-format=json --output="$run/fio.json" --size=8m --rw=randwrite --name=first --name=second --offset=8m) \
      >"$run/fio.log" 2>&1 &&
      jq -e '(.jobs | length) == 2 and all(.jobs[]; .error == 0 and .write.total_ios > 1)' "$run/fio.json" >/dev/null ||
      return 1
    turns=$((turns + 1))
  done
  say "fio ran $turns times"
  [ "$turns" -gt 0 ]
}
rm -f "$run/stop"
write_until_stop &
fio=$!

silent() { # ADDRESS: its packets are dropped both ways, nobody is told
  nft -f - <<NFT || die "nft refuses"
table inet beside {
  chain in { type filter hook input priority 0; ip saddr $1 drop; ip daddr $1 drop; }
}
NFT
}
heard() { nft delete table inet beside || die "nft refuses"; }

proven() { status | jq '.devices[0].fences.proven'; }
path_of=([85]=$one [86]=$two)
for round in 1 2 3 4; do
  host=$((85 + round % 2))
  before=$(proven) failures=$(path_count "${path_of[$host]}" failures)
  say "round $round: 127.0.0.$host falls silent, $before ranges proven until now"
  silent "127.0.0.$host"
  lost() { [ "$(path_count "${path_of[$host]}" failures)" -ge $((failures + 2)) ]; } # on both lanes
  wait_for 60 "the end of the sessions of ${path_of[$host]}" lost
  heard
  wait_for 60 "${path_of[$host]} active again, with $(status | jq -c .devices[0].fences)" path_is "${path_of[$host]}" active
  kill -0 "$fio" 2>/dev/null || die "a write failed: $(cat "$run/fio.log")"
  [ "$(proven)" -gt "$before" ] || say "nothing was in doubt this time"
done
[ "$(proven)" -gt 0 ] || die "nothing was in doubt in any round: nothing was shown"
touch "$run/stop"
wait "$fio" || die "a write failed: $(cat "$run/fio.log")"
wait_for 60 "both paths active at the end" status_says '[.devices[0].paths[].state] == ["active", "active"]'
status_says '.devices[0] | .errors == 0 and .fences.pending == 0 and .fences.unproven == 0' ||
  die "a write failed, or a range was released without a proof"
all=$(proven)
stop_daemon
say "beside.sh passed in $SECONDS s, $all ranges proven"
