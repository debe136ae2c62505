# In the virtual machine, started by mpio-bench: the kernel's own initiator with dm-multipath, one path of it alone,
# mpio with nbd-client, and qemu-nbd with nbd-client, all on one logical unit behind the same two tgtd, in turn.
#
#   guest.sh SECONDS TURNS LOAD… with LOAD as read:4k:32 (what, bytes, depth)
#
# Each measurement is one line of JSON in rows.jsonl. Policies are alike: round-robin over both paths.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

seconds=$1 turns=$2
shift 2
size=$((64 * 1024 * 1024))
a=iqn.2026-11.test.bench:ha1 b=iqn.2026-11.test.bench:ha1partner
rows=$keep/rows.jsonl

storage_network SA 10.79.1
storage_network SB 10.79.2
dd if=/dev/zero of="$run/lun1.img" bs=1M count=$((size >> 20)) status=none
tgt_node 5 SA 10.79.1.10 "$a" bench 1
tgt_node 6 SB 10.79.2.10 "$b" bench 1

kernel_initiator "path_grouping_policy multibus" 'path_selector "round-robin 0"'
kernel_path "$a" 10.79.1.10
kernel_path "$b" 10.79.2.10
wait_for 60 "a multipath device with two paths" mapped
single=$(lsblk -nro NAME,TYPE | awk '$2 == "disk" && $1 ~ /^sd/ {print $1; exit}')

configure iqn.2026-11.test.vm:mpio 10.79.1.10@10.79.1.1 10.79.2.10@10.79.2.1 'lun = 1' 'policy = "round-robin"'
start_daemon
attach 1
qemu-nbd -t -e 16 -f raw --cache=none -k "$run/qemu.sock" "iscsi://10.79.1.10:3260/$a/1" >"$run/qemu.log" 2>&1 &
started+=("$!")
wait_for 60 "qemu-nbd" test -S "$run/qemu.sock"
nbd-client -unix "$run/qemu.sock" /dev/nbd1 -timeout 120 || die "nbd-client cannot attach to qemu-nbd"

declare -A device=([mpio]=/dev/nbd0 [dm-multipath]=/dev/mapper/$dm [one-path]=/dev/$single [qemu-nbd]=/dev/nbd1)
order=(mpio dm-multipath one-path qemu-nbd)
udevadm settle
say "everybody is there after $SECONDS s: $(multipath -ll "$dm" | tr '\n' ' ')"

run_fio() { # CONTENDER WHAT BYTES DEPTH MORE…
  local contender=$1 what=$2 bytes=$3 depth=$4
  shift 4
  timeout 120 fio --name=load --filename="${device[$contender]}" --direct=1 --ioengine=libaio --thread --rw="rand$what" \
    --bs="$bytes" --iodepth="$depth" --randrepeat=0 --output-format=json --output="$run/fio.json" "$@" >"$run/fio.log" 2>&1 ||
    die "fio failed on $contender: $(tail -n 5 "$run/fio.log")"
  jq -e '.jobs[0].error == 0' "$run/fio.json" >/dev/null || die "fio saw errors on $contender"
}

for load in "$@"; do
  IFS=: read -r what bytes depth <<<"$load"
  # Each block of a part is written once and compared, before anything is measured.
  for contender in "${order[@]}"; do
    run_fio "$contender" write "$bytes" "$depth" --size=$((depth > 1 ? 4 : 1))m --verify=crc32c --verify_fatal=1
    jq -e '.jobs[0].read.total_ios > 0' "$run/fio.json" >/dev/null || die "nothing was compared on $contender"
  done
  for turn in $(seq "$turns"); do
    for contender in "${order[@]}"; do
      run_fio "$contender" "$what" "$bytes" "$depth" --size="$size" --norandommap --time_based --runtime="$seconds" --ramp_time=1
      jq -c --arg contender "$contender" --arg load "$load" --argjson turn "$turn" ".jobs[0].$what | {\$load, \$contender, \$turn, iops,
        p50: (.clat_ns.percentile[\"50.000000\"] / 1000), p99: (.clat_ns.percentile[\"99.000000\"] / 1000)}" "$run/fio.json" >>"$rows" ||
        die "no result of fio"
      say "$(tail -n 1 "$rows")"
    done
  done
done
status >"$keep/status.json"
status_says '.devices[0].errors == 0 and ([.devices[0].paths[].state] == ["active", "active"])' || die "mpio had trouble on the way"
say "guest.sh passed in $SECONDS s"
