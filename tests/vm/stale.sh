# In the virtual machine: the stale write, side by side. Two tgtd behind a network each; LUN 1 is merged by the
# kernel's initiator and dm-multipath, LUN 2 by mpio and the kernel's NBD client. Packets to A are then held back
# for 25 s: to both stacks the same fault at the same time. W1 goes to A, is repeated on B and acknowledged; W2
# goes over it. When everything has arrived, one report says what each block holds.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

a=iqn.2026-11.test.stale:ha1 b=iqn.2026-11.test.stale:ha1partner
size=$((16 * 1024 * 1024))
at=$((4 * 1024 * 1024 / 4096)) # the block, in units of 4 KiB
hold=25

# --- storage ------------------------------------------------------------------------------------------

storage_network SA 10.78.1
storage_network SB 10.78.2

for lun in 1 2; do truncate -s "$size" "$run/lun$lun.img"; done
tgt_node 3 SA 10.78.1.10 "$a" stale 1 2
tgt_node 4 SB 10.78.2.10 "$b" stale 1 2

# --- the kernel's stack ------------------------------------------------------------------------------

modprobe -a nbd sch_netem || die "no modules"
kernel_initiator "path_grouping_policy failover"
kernel_path "$a" 10.78.1.10
kernel_path "$b" 10.78.2.10
wait_for 60 "a multipath device with two paths" mapped
say "dm-multipath: $(multipath -ll "$dm" | tr '\n' ' ')"

# --- mpio ---------------------------------------------------------------------------------------------

configure iqn.2026-11.test.vm:mpio 10.78.1.10@10.78.1.1 10.78.2.10@10.78.2.1 \
  'lun = 2' 'policy = "failover"' 'prefer = "a:ha1"' 'path_timeout = "5s"' 'command_timeout = "10s"' 'fence_timeout = "90s"'
start_daemon
attach 1
say "both devices are there after $SECONDS s"

# --- the experiment -----------------------------------------------------------------------------------

for word in W0 W1 W2; do yes $word | head -c 4096 >"$run/$word"; done
holds() { # FILE: which of them it holds
  local word
  dd if="$1" bs=4096 skip=$at count=1 status=none >"$run/now"
  for word in W0 W1 W2; do cmp -s "$run/now" "$run/$word" && echo $word && return; done
  echo "neither W1 nor W2"
}
story() { # NAME DEVICE
  name=$1 device=$2 run=$run at=$at timeout 150 ./guest-tests --ignored --exact --nocapture guest::w1_then_w2 &
  started+=("$!")
  wait_for 30 "W0 by $1" test -e "$run/$1.ready"
}
story dm-multipath /dev/mapper/"$dm"
story mpio /dev/nbd0
udevadm settle
[ "$(holds "$run/lun1.img") $(holds "$run/lun2.img")" = "W0 W0" ] || die "W0 is not there"

tc qdisc add dev vSA root netem delay ${hold}s || die "no netem"
cut=$SECONDS
touch "$run/go"
say "packets to A are held back for $hold s"
# When what was held has arrived, the network is well again: new packets are not late any more.
sleep $((hold + 2 - (SECONDS - cut)))
say "what was held has arrived; packets are on time again"
tc qdisc change dev vSA root netem delay 0ms || die "netem cannot be changed"
for name in dm-multipath mpio; do wait_for 60 "W2 by $name" test -e "$run/$name.done"; done
wait_for 60 "path a:ha1 active again" path_is a:ha1 active
sleep 2

verdict() { [ "$1" = W2 ] && echo "$1, right" || echo "$1, WRONG: W2 was acknowledged"; }
kernel=$(holds "$run/lun1.img")
ours=$(holds "$run/lun2.img")
say "| packets to A held $hold s, tgtd $(dpkg-query -W -f '${Version}' tgt) | the block holds |"
say "| open-iscsi + dm-multipath, linux $(uname -r) | $(verdict "$kernel") |"
say "| mpio, nbd-client | $(verdict "$ours") |"
say "mpio's fences: $(status | jq -c '.devices[0].fences')"
[ "$ours" = W2 ] || die "mpio has let an old write win"
[ "$kernel" = W1 ] || die "the fault did not show on dm-multipath: it proves nothing about mpio"
touch "$run/end"
say "stale.sh passed in $SECONDS s"
