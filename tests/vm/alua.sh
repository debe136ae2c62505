# In the virtual machine: asymmetric access of a real target. One backing store of LIO with two target port groups, one
# behind each of two targets; the administrator changes their states while fio reads and writes by mpio, and then leaves
# it to the initiator (explicit ALUA) to ask for the change. No request may fail.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

ram_disks
modprobe -a target_core_mod target_core_iblock iscsi_target_mod || die "no modules"
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
# Where LIO writes down what initiators have asked for.
mkdir -p /var/target/alua
size=$((16 * 1024 * 1024))
a=iqn.2026-11.test.alua:ha1 b=iqn.2026-11.test.alua:ha1partner
lio_backstore 80 /dev/ram1 mpio-alua-0001
lio_target 127.0.0.81 "$a"
lio_target 127.0.0.82 "$b"
lio_open_discovery

# States as LIO numbers them: 0 active-optimized, 1 active-non-optimized, 2 standby, 3 unavailable.
group() { echo "$core/alua/$1/$2"; }
set_group() { echo "$3" >"$(group "$1" "$2")" || die "LIO refuses $2=$3 of $1"; }
make_group() { # NAME ID TARGET STATE
  mkdir "$core/alua/$1" && echo "$2" >"$(group "$1" tg_pt_gp_id)" || die "LIO: no group $1"
  set_group "$1" alua_access_type 1 # implicit
  set_group "$1" alua_access_state "$4"
  echo "$1" >"/sys/kernel/config/target/iscsi/$3/tpgt_1/lun/lun_1/alua_tg_pt_gp" || die "LIO: $3 is not in $1"
}
make_group one 11 "$a" 0
make_group two 12 "$b" 1
target_is() { echo "$2" >"/sys/kernel/config/target/iscsi/$1/tpgt_1/enable" || die "LIO: cannot set enable of $1"; }

configure iqn.2026-11.test.vm:alua 127.0.0.81@127.0.0.1 127.0.0.82@127.0.0.1 \
  'lun = 1' 'policy = "round-robin-subset"' "${patient[@]}"
start_daemon
! grep -i 'access state' "$run/serve.log" || die "mpio makes nothing of what LIO says"

# access PATH STATE [ACCESS GROUP]
access() { status_says "any(.devices[0].paths[]; .name == \"$1\" and .state == \"$2\" and .alua == \"$3\" and .group == $4)"; }
shown() { wait_for 30 "$1 as $2, $3 in group $4" access "$@"; }
carried() { # PATH PATH: what each has carried, in one line
  status | jq -r --arg a "$1" --arg b "$2" '[.devices[0].paths[] | {(.name): (.reads + .writes)}] | add | "\(.[$a]) \(.[$b])"'
}
only() { # PATH OTHER: within a second the first carries I/O and the other none
  local before after
  before=($(carried "$1" "$2")) && sleep 1 && after=($(carried "$1" "$2")) &&
    [ "${after[0]}" -ge $((before[0] + 5)) ] && [ "${after[1]}" = "${before[1]}" ]
}
all_on() { # PATH OTHER
  wait_for 30 "all I/O on $1 and none on $2" only "$1" "$2"
  say "all I/O is on $1"
}
one=a:ha1 two=b:ha1partner

uri="nbd+unix:///vm0?socket=$run/vm0.sock"
half=$((size / 2))
# fio again and again: each run says whether a request of it failed.
fio_until_stop() {
  local turns=0
  while [ ! -e "$run/stop" ]; do
    (cd "$run" && timeout 120 fio --ioengine=nbd "--uri=$uri" --bs=4k --iodepth=4 --time_based --runtime=8 --rate_iops=20 \
      --output-format=json --output="$run/fio.json" "--size=$half" \
      --name=reads --rw=randread --name=writes --rw=randwrite "--offset=$half") >"$run/fio.log" 2>&1 &&
      jq -e '(.jobs | length) == 2 and all(.jobs[]; .error == 0) and .jobs[0].read.total_ios > 5 and .jobs[1].write.total_ios > 5' \
        "$run/fio.json" >/dev/null || return 1
    turns=$((turns + 1))
  done
  say "fio ran $turns times"
  [ "$turns" -gt 0 ]
}
# One script after another runs in the same machine.
rm -f "$run/stop"
fio_until_stop &
fio=$!

# --- implicit: the administrator of the storage changes what it serves well ----------------------------

shown $one active active-optimized 11
shown $two active active-non-optimized 12
all_on $one $two
say "group 12 is optimized, group 11 is not any more"
set_group two alua_access_state 0
set_group one alua_access_state 1
shown $one active active-non-optimized 11
shown $two active active-optimized 12
all_on $two $one
for state in standby:2 unavailable:3; do
  say "group 12 is ${state%:*}"
  set_group two alua_access_state "${state#*:}"
  shown $two standby "${state%:*}" 12
  all_on $one $two
done
say "group 11, the only one that serves, takes six seconds to be optimized"
set_group one trans_delay_msecs 6000
set_group one alua_access_state 0 &
change=$!
shown $one standby transitioning 11
wait "$change" || exit 1
set_group one trans_delay_msecs 0
shown $one active active-optimized 11
all_on $one $two
set_group two alua_access_state 0
set_group one alua_access_state 1
shown $two active active-optimized 12
all_on $two $one

say "group 11 stands by, and group 12's target goes: the storage does not want to be asked"
set_group one alua_access_state 2
shown $one standby standby 11
target_is "$b" 0
wait_for 30 "the device without a usable path" status_says '.devices[0].state == "down"'
sleep 3
[ "$(cat "$(group one alua_access_state)")" = 2 ] || die "mpio has changed a state that only the storage may change"
set_group one alua_access_state 1
shown $one active active-non-optimized 11
target_is "$b" 1
shown $two active active-optimized 12
all_on $two $one

# --- explicit: the initiator asks ---------------------------------------------------------------------

logs_in_again() { # TARGET PATH
  target_is "$1" 0
  wait_for 30 "path $2 leaving active" path_is_not "$2" active
  target_is "$1" 1
  wait_for 30 "path $2 active again" path_is "$2" active
}
changed_by() { # TYPE: who may change the states from now on; mpio learns it by logging in
  local name
  for name in one two; do set_group "$name" alua_access_type "$1"; done
  logs_in_again "$a" "$one"
  logs_in_again "$b" "$two"
}
two_is_back() {
  target_is "$b" 1
  wait_for 30 "path $two active again" path_is $two active
}
was_asked() { # GROUP
  [ "$(cat "$(group "$1" alua_access_status)")" = "Altered by Explicit STPG" ] ||
    die "the state was not changed by SET TARGET PORT GROUPS: $(cat "$(group "$1" alua_access_status)")"
}

say "from now on the storage wants to be asked as well"
changed_by 3
set_group one alua_access_state 2
shown $one standby standby 11
all_on $two $one
say "group 12's target goes: mpio asks for group 11"
target_is "$b" 0
shown $one active active-optimized 11
was_asked one
all_on $one $two
two_is_back
say "group 11 is non-optimized and group 12's target goes: the storage may mend that by itself, and is not asked"
set_group one alua_access_state 1
shown $one active active-non-optimized 11
all_on $two $one
target_is "$b" 0
wait_for 30 "path $two leaving active" path_is_not $two active
sleep 8
[ "$(cat "$(group one alua_access_state)")" = 1 ] || die "mpio has changed a state without need"
two_is_back

# --- explicit only: nobody but an initiator changes a state ---------------------------------------------

say "from now on the storage does nothing by itself"
set_group one alua_access_state 0
changed_by 2
! echo 1 >"$(group one alua_access_state)" || die "LIO changes a state by itself: this is not what explicit means"
for state in active-non-optimized:1 standby:2; do
  say "somebody else makes group 11 ${state%:*}; group 12's target goes, and mpio asks for group 11"
  set_group one alua_access_type 3
  set_group one alua_access_state "${state#*:}"
  set_group one alua_access_type 2
  wait_for 30 "$one as ${state%:*}" status_says "any(.devices[0].paths[]; .name == \"$one\" and .alua == \"${state%:*}\")"
  all_on $two $one
  target_is "$b" 0
  shown $one active active-optimized 11
  was_asked one
  two_is_back
done

# --- what fio saw -------------------------------------------------------------------------------------

touch "$run/stop"
wait "$fio" || die "fio saw errors: $(tail -n 5 "$run/fio.log")"
status_says '.devices[0].errors == 0' || die "the device counts errors given to its users"
stop_daemon
say "alua.sh passed in $SECONDS s"
