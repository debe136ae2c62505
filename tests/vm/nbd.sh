# In the virtual machine: the kernel's NBD client and ext4 over a device with two tgtd paths, each of which
# dies by SIGKILL under load and comes back; once with one NBD connection, once with four.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

size=$((96 * 1024 * 1024))
a=iqn.2026-11.test.san:ha1 b=iqn.2026-11.test.san:ha1partner

truncate -s "$size" "$run/lun.img"
tgt_start 1 127.0.0.11 "$a"
tgt_start 2 127.0.0.12 "$b"
configure iqn.2026-11.test.vm:mpio 127.0.0.11@127.0.0.1 127.0.0.12@127.0.0.1 \
  'lun = 1' 'policy = "round-robin"' "${patient[@]}"

start_daemon
# Under writeback the kernel must not wait for memory of ours: every thread is an IO_FLUSHER (PF_MEMALLOC_NOIO and
# PF_LOCAL_THROTTLE), and others are ended first when memory is out.
for task in "/proc/$daemon/task/"*; do
  flags=$(sed 's/.*) //' "$task/stat" | cut -d ' ' -f 7)
  [ $((flags & 0x180000)) = $((0x180000)) ] || die "$(cat "$task/comm") is no IO_FLUSHER: $flags"
done
[ "$(cat "/proc/$daemon/oom_score_adj")" = -1000 ] || die "the OOM score is $(cat "/proc/$daemon/oom_score_adj")"
say "the device is up, $(status | jq -c '[.devices[0].paths[] | {name, state}]')"

# die_and_return NODE ADDRESS TARGET PATH: a node is killed and started again under load
die_and_return() {
  turns_reach 2
  say "tgtd $1 is killed"
  tgt_kill "$1"
  wait_for 60 "path $4 leaving active" path_is_not "$4" active
  turns_reach 6
  say "tgtd $1 is started again"
  tgt_start "$1" "$2" "$3"
  wait_for 60 "path $4 active again" path_is "$4" active
  both_carry_io a:ha1 b:ha1partner
}

for connections in 1 4; do
  say "nbd-client with $connections connection(s)"
  attach "$connections"
  make_file_system
  start_load
  die_and_return 1 127.0.0.11 "$a" a:ha1
  die_and_return 2 127.0.0.12 "$b" b:ha1partner
  stop_load
  check_file_system
  status >"$keep/nbd-$connections.json"
  status_says '.devices[0].errors == 0' || die "the device counts errors given to its users"
  detach
done
stop_daemon
say "nbd.sh passed in $SECONDS s"
