# What the guest scripts share: words, waiting, the file system load, the daemon, the kernel's NBD client.
# Sourced by bash inside the virtual machine; nothing here is meant for a host.
#
# Everything runs at about a tenth of native speed there, so waits are generous and loads are small. Each
# line that starts with "## " is progress for whoever watches.
set -u

mpio=./mpio
run=/run/mpio-test          # configuration, sockets, logs
keep=/vm/out                # comes out to the host
mkdir -p "$run" "$keep"
declare -a started=()       # process ids to end when the script ends

say() { echo "## $*"; }

die() {
  echo "## FAILED: $*"
  echo "--- the daemon's last lines"; tail -n 40 "$run/serve.log" 2>/dev/null
  echo "--- its status"; "$mpio" status --control "$run/control.sock" 2>&1 | head -n 40
  echo "--- the kernel's last lines"; dmesg | tail -n 20
  exit 1
}

clean_up() {
  local pid
  umount "$mount" 2>/dev/null
  nbd-client -d /dev/nbd0 >/dev/null 2>&1
  for pid in "${started[@]}"; do
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  cp "$run"/*.log "$run"/*.toml "$keep" 2>/dev/null
  return 0
}
trap clean_up EXIT

# wait_for SECONDS WHAT COMMAND…: until COMMAND succeeds
wait_for() {
  local limit=$1 what=$2 since=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $((SECONDS - since)) -lt "$limit" ] || die "$what did not happen within $limit s"
    sleep 0.2
  done
}

# --- the daemon -------------------------------------------------------------------------------------

status() { timeout 20 "$mpio" status --control "$run/control.sock" --json; }
# status_says JQ: an expression over the status that must be true. jq is content with no input at all, hence
# the check that there is some.
status_says() {
  local json
  json=$(status) && [ -n "$json" ] && jq -e "$1" <<<"$json" >/dev/null
}
path_is() { status_says "any(.devices[0].paths[]; .name == \"$1\" and .state == \"$2\")"; }
path_is_not() { status_says "any(.devices[0].paths[]; .name == \"$1\" and .state != \"$2\")"; }
path_count() { status | jq ".devices[0].paths[] | select(.name == \"$1\") | .$2"; } # one of its counters

# What a portal's table says beside its addresses, and what a device says because emulation is slow: what is a
# second elsewhere is several here.
declare -a portal_lines=() patient=('path_timeout = "8s"' 'command_timeout = "15s"')

# The configuration: device vm0 over the targets $a and $b behind a portal each. Each LINE is one more of the device's.
configure() { # INITIATOR ADDRESS@SOURCE ADDRESS@SOURCE LINE…
  local initiator=$1 name=a portal
  {
    printf '[initiator]\nname = "%s"\n' "$initiator"
    for portal in "$2" "$3"; do
      printf '\n[[portal]]\nname = "%s"\naddress = "%s"\nsource = "%s"\n' "$name" "${portal%@*}" "${portal#*@}"
      [ ${#portal_lines[@]} = 0 ] || printf '%s\n' "${portal_lines[@]}"
      name=b
    done
    shift 3
    printf '\n[[device]]\nname = "vm0"\ntargets = ["%s", "%s"]\nexport = "unix:%s"\ntrust_identity = true\n' \
      "$a" "$b" "$run/vm0.sock"
    printf '%s\n' "$@"
  } >"$run/mpio.toml"
}

start_daemon() {
  "$mpio" config check "$run/mpio.toml" || die "config check refuses the configuration"
  "$mpio" serve --config "$run/mpio.toml" --control "$run/control.sock" >>"$run/serve.log" 2>&1 &
  daemon=$!
  started+=("$daemon")
  whole() { ! kill -0 "$daemon" 2>/dev/null || status_says '.devices[0].state == "ok"'; }
  wait_for 60 "the device with all its paths" whole
  kill -0 "$daemon" 2>/dev/null || die "mpio serve ended by itself"
}

stop_daemon() {
  kill -TERM "$daemon"
  wait "$daemon" || die "mpio serve ended with $? on SIGTERM"
  [ ! -e "$run/vm0.sock" ] || die "the export's socket is still there after SIGTERM"
}

# Both paths carry I/O now: their counters rise while the load runs.
both_carry_io() { # PATH PATH
  local path before=() now
  for path in "$1" "$2"; do before+=("$(($(path_count "$path" reads) + $(path_count "$path" writes)))"); done
  local index=0
  for path in "$1" "$2"; do
    more() { now=$(($(path_count "$path" reads) + $(path_count "$path" writes))) && [ "$now" -gt "${before[$index]}" ]; }
    wait_for 40 "I/O on path $path" more
    index=$((index + 1))
  done
}

# --- the kernel's client and a file system on it ----------------------------------------------------

mount=/mnt/vm0

attach() { # CONNECTIONS
  local extra=()
  [ "$1" = 1 ] || extra=(-C "$1")
  modprobe nbd || die "no nbd module"
  nbd-client -unix "$run/vm0.sock" /dev/nbd0 -name vm0 -timeout 120 "${extra[@]}" || die "nbd-client cannot attach"
  local bytes
  bytes=$(blockdev --getsize64 /dev/nbd0)
  [ "$bytes" = "$size" ] || die "/dev/nbd0 has $bytes bytes, the logical unit $size"
}

detach() { nbd-client -d /dev/nbd0 || die "nbd-client cannot detach"; }

make_file_system() {
  mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard /dev/nbd0 || die "mkfs.ext4 failed"
  mkdir -p "$mount"
  mount -t ext4 -o errors=remount-ro /dev/nbd0 "$mount" || die "cannot mount"
  rm -rf "$run/sums" "$run/stop" "$run/load.failed"
  mkdir "$run/sums"
}

# Writes files of random sizes and contents for ever (32 names, at most 512 KiB each, synced one by one),
# keeping their checksums in memory, and reads every fourth back around the cache.
load() {
  local turn=0 name blocks
  [ -e "$run/pool" ] || dd if=/dev/urandom of="$run/pool" bs=1M count=8 status=none
  while [ ! -e "$run/stop" ]; do
    name=f$((turn % 32))
    blocks=$((RANDOM % 128 + 1))
    dd if="$run/pool" bs=4096 skip=$((RANDOM % 1900)) count=$blocks status=none >"$run/piece" || return 1
    # The turn makes contents unique, wherever in the pool they come from.
    printf '%016d' "$turn" | dd of="$run/piece" conv=notrunc status=none || return 1
    dd if="$run/piece" of="$mount/$name" bs=64k conv=fsync status=none || return 1
    sha256sum <"$run/piece" >"$run/sums/$name"
    if [ $((turn % 4)) = 3 ]; then
      dd if="$mount/$name" iflag=direct bs=64k status=none | sha256sum | cmp -s - "$run/sums/$name" || {
        echo "## $name reads back differently (turn $turn)"
        return 1
      }
    fi
    turn=$((turn + 1))
    echo "$turn" >"$run/turns"
  done
}

start_load() {
  echo 0 >"$run/turns"
  (load || touch "$run/load.failed") &
  load=$!
  started+=("$load")
  turns_reach 3
}

# turns_reach N: N files more than now have been written, so the load is not stuck
turns_reach() {
  local goal=$(($(cat "$run/turns") + $1))
  reached() { [ -e "$run/load.failed" ] || [ "$(cat "$run/turns")" -ge "$goal" ]; }
  wait_for 120 "progress of the load ($1 files)" reached
  [ ! -e "$run/load.failed" ] || die "the load failed"
}

stop_load() {
  touch "$run/stop"
  wait "$load"
  [ ! -e "$run/load.failed" ] || die "the load failed"
  say "the load wrote $(cat "$run/turns") files"
}

# Unmounts, checks the file system, mounts again, compares every checksum, unmounts.
check_file_system() {
  local name bad=0
  sync
  umount "$mount" || die "cannot unmount"
  fsck.ext4 -fn /dev/nbd0 || die "fsck finds errors"
  blockdev --flushbufs /dev/nbd0
  mount -t ext4 /dev/nbd0 "$mount" || die "cannot mount again"
  for name in "$run"/sums/*; do
    name=${name##*/}
    sha256sum <"$mount/$name" | cmp -s - "$run/sums/$name" || { echo "## $name differs"; bad=$((bad + 1)); }
  done
  [ "$bad" = 0 ] || die "$bad files differ"
  umount "$mount" || die "cannot unmount"
  ! dmesg | grep -E 'I/O error.*nbd0|nbd0.*(I/O error|timed out)|EXT4-fs error' || die "the kernel saw errors on /dev/nbd0"
  say "fsck is clean, $(ls "$run/sums" | wc -l) checksums are right"
}

# --- storage nodes ----------------------------------------------------------------------------------

# tgtd as a storage node on a loopback address: tgt_start NODE ADDRESS, tgt_kill NODE (SIGKILL).
declare -A tgt_pid=()

tgt_start() { # NODE(1,2) ADDRESS TARGET
  local node=$1 address=$2 target=$3
  local adm=(tgtadm -C "$node" --lld iscsi)
  mkdir -p /run/tgtd
  rm -f "/run/tgtd/socket.$node"*
  tgtd -f -C "$node" --iscsi "portal=$address:3260" >>"$run/tgtd$node.log" 2>&1 &
  tgt_pid[$node]=$!
  started+=("${tgt_pid[$node]}")
  wait_for 30 "tgtd $node" "${adm[@]}" --op show --mode system
  "${adm[@]}" --op new --mode target --tid 1 -T "$target" &&
    "${adm[@]}" --op new --mode logicalunit --tid 1 --lun 1 -b "$run/lun.img" &&
    "${adm[@]}" --op update --mode logicalunit --tid 1 --lun 1 \
      --params vendor_id=TEST,product_id=MIRROR,product_rev=0001,scsi_id=TEST-vm0-lun1,scsi_sn=vm0lun1 &&
    "${adm[@]}" --op bind --mode target --tid 1 -I ALL || die "cannot set up tgtd $node"
}

tgt_kill() { # NODE
  kill -9 "${tgt_pid[$1]}"
  wait "${tgt_pid[$1]}" 2>/dev/null
}

# tgtd as a storage node inside a network namespace, with units that lie in $run/lunN.img. Equal SERIALs are one unit.
tgt_node() { # NODE NAMESPACE ADDRESS TARGET SERIAL LUN…
  local node=$1 namespace=$2 address=$3 target=$4 serial=$5 lun
  local adm=(tgtadm -C "$node" --lld iscsi)
  shift 5
  mkdir -p /run/tgtd
  ip netns exec "$namespace" tgtd -f -C "$node" --iscsi "portal=$address:3260" >>"$run/tgtd$node.log" 2>&1 &
  started+=("$!")
  wait_for 30 "tgtd $node" "${adm[@]}" --op show --mode system
  "${adm[@]}" --op new --mode target --tid 1 -T "$target" || die "no target $target"
  for lun in "$@"; do
    "${adm[@]}" --op new --mode logicalunit --tid 1 --lun "$lun" -b "$run/lun$lun.img" &&
      "${adm[@]}" --op update --mode logicalunit --tid 1 --lun "$lun" \
        --params "vendor_id=TEST,product_id=MIRROR,product_rev=0001,scsi_id=TEST-$serial-lun$lun,scsi_sn=${serial}lun$lun" ||
      die "no LUN $lun on tgtd $node"
  done
  "${adm[@]}" --op bind --mode target --tid 1 -I ALL || die "cannot bind tgtd $node"
}

# A storage network: node NAME behind a veth pair, ours SUBNET.1, the node's SUBNET.10.
storage_network() { # NAME SUBNET
  ip netns add "$1" &&
    ip link add "v$1" type veth peer name e0 netns "$1" &&
    ip address add "$2.1/24" dev "v$1" &&
    ip link set "v$1" up &&
    ip -n "$1" address add "$2.10/24" dev e0 &&
    ip -n "$1" link set lo up &&
    ip -n "$1" link set e0 up || die "cannot make the storage network $1"
}

cut_silently() { # NAME: everything is dropped, nobody is told
  ip netns exec "$1" nft -f - <<'NFT' || die "nft refuses"
table inet cut {
  chain in { type filter hook input priority 0; policy drop; }
  chain out { type filter hook output priority 0; policy drop; }
}
NFT
}
heal_silent_cut() { ip netns exec "$1" nft delete table inet cut || die "nft refuses"; }

# The kernel's own target, by configfs: node NAME listens on ADDRESS inside its namespace, asks for CHAP both
# ways and for both digests, and shows the backing file as LUN 1.
lio_start() { # NAME ADDRESS TARGET INITIATOR USER SECRET MUTUAL_USER MUTUAL_SECRET
  local name=$1 address=$2 target=$3 initiator=$4 core tpg acl
  modprobe -a target_core_mod target_core_file iscsi_target_mod || die "no LIO modules"
  mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
  core=/sys/kernel/config/target/core/fileio_$((lio_count++))/$name
  mkdir -p "$core" || die "LIO: no backstore"
  {
    echo "fd_dev_name=$run/lun.img,fd_dev_size=$size" >"$core/control" &&
      echo "mpio-vm-test-0001" >"$core/wwn/vpd_unit_serial" &&
      echo 1 >"$core/enable"
  } || die "LIO: cannot set up the backstore"
  mkdir -p /sys/kernel/config/target/iscsi
  tpg=/sys/kernel/config/target/iscsi/$target/tpgt_1
  acl=$tpg/acls/$initiator
  {
    mkdir -p "$tpg" && mkdir "$tpg/lun/lun_1" && ln -s "$core" "$tpg/lun/lun_1/store" &&
      echo 1 >"$tpg/attrib/authentication" &&
      echo 0 >"$tpg/attrib/generate_node_acls" &&
      echo CHAP >"$tpg/param/AuthMethod" &&
      echo CRC32C >"$tpg/param/HeaderDigest" &&
      echo CRC32C >"$tpg/param/DataDigest" &&
      mkdir "$acl" && mkdir "$acl/lun_1" && ln -s "$tpg/lun/lun_1" "$acl/lun_1/mapped" &&
      echo -n "$5" >"$acl/auth/userid" && echo -n "$6" >"$acl/auth/password" &&
      echo -n "$7" >"$acl/auth/userid_mutual" && echo -n "$8" >"$acl/auth/password_mutual" &&
      # Only the network namespace is entered: ip netns exec would hide configfs behind a new /sys.
      nsenter --net="/run/netns/$name" mkdir "$tpg/np/$address:3260" &&
      echo 1 >"$tpg/enable"
  } || die "LIO: cannot set up target $target"
  # Discovery asks for the same; it is one setting for all targets of a kernel.
  local discovery=/sys/kernel/config/target/iscsi/discovery_auth
  {
    echo -n "$5" >"$discovery/userid" && echo -n "$6" >"$discovery/password" &&
      echo -n "$7" >"$discovery/userid_mutual" && echo -n "$8" >"$discovery/password_mutual" &&
      echo 1 >"$discovery/enforce_discovery_auth"
  } || die "LIO: cannot set up authentication of discovery"
}
lio_count=0

# The kernel's target over a device-mapper disk: everybody may log in. Equal serials are one unit.
lio_disk() { # NUMBER ADDRESS TARGET DISK SERIAL
  lio_backstore "$1" "/dev/mapper/$4" "$5"
  lio_target "$2" "$3"
}

# A target keeps its disk until the machine ends: 0 is for device-mapper, each of the others for one script.
ram_disks() { [ -b /dev/ram2 ] || modprobe brd rd_nr=3 rd_size=16384 || die "no brd module"; }

lio_backstore() { # NUMBER DEVICE SERIAL: a block device as $core
  core=/sys/kernel/config/target/core/iblock_$1/$1
  {
    mkdir -p "$core" && echo "udev_path=$2" >"$core/control" &&
      echo "$3" >"$core/wwn/vpd_unit_serial" && echo 1 >"$core/enable"
  } || die "LIO: no backstore over $2"
}

lio_target() { # ADDRESS TARGET: shows $core as LUN 1
  local tpg=/sys/kernel/config/target/iscsi/$2/tpgt_1
  {
    mkdir -p /sys/kernel/config/target/iscsi && mkdir -p "$tpg" &&
      mkdir "$tpg/lun/lun_1" && ln -s "$core" "$tpg/lun/lun_1/store" &&
      echo 0 >"$tpg/attrib/authentication" && echo 1 >"$tpg/attrib/generate_node_acls" &&
      echo 0 >"$tpg/attrib/demo_mode_write_protect" &&
      mkdir "$tpg/np/$1:3260" && echo 1 >"$tpg/enable"
  } || die "LIO: cannot set up $2"
}

# Authentication of discovery is one setting for all targets of a kernel, and another script may have asked for it.
lio_open_discovery() { echo 0 >/sys/kernel/config/target/iscsi/discovery_auth/enforce_discovery_auth || die "LIO: cannot open discovery"; }

# --- the kernel's own initiator and dm-multipath ------------------------------------------------------

# Debian's own settings, with shorter times; the arguments are one more line for multipath's defaults each.
kernel_initiator() { # LINE…
  modprobe -a sd_mod sg iscsi_tcp dm_multipath dm_round_robin dm_service_time crc32c_generic || die "no modules"
  /lib/systemd/systemd-udevd --daemon || die "no udevd"
  udevadm trigger --action=add && udevadm settle
  mkdir -p /etc/iscsi /run/lock/iscsi
  echo "InitiatorName=iqn.2026-11.test.vm:kernel" >/etc/iscsi/initiatorname.iscsi
  sed -i -e 's|^iscsid.startup = .*|iscsid.startup = /bin/true|' -e 's|^node.startup = .*|node.startup = manual|' \
    -e 's|^\(node.session.timeo.replacement_timeout\) = .*|\1 = 5|' \
    -e 's|^\(node.conn\[0\].timeo.noop_out_[a-z]*\) = .*|\1 = 2|' /etc/iscsi/iscsid.conf
  iscsid -f >>"$run/iscsid.log" 2>&1 &
  started+=("$!")
  {
    cat <<'CONF'
defaults {
	find_multipaths no
	user_friendly_names yes
	no_path_retry queue
	fast_io_fail_tmo 5
	polling_interval 2
	max_polling_interval 2
CONF
    printf '\t%s\n' "$@"
    cat <<'CONF'
}
blacklist {
	devnode "^(ram|nbd|vd|loop)"
}
CONF
  } >/etc/multipath.conf
  multipathd -d -s >>"$run/multipathd.log" 2>&1 &
  started+=("$!")
  wait_for 30 "iscsid" grep -q ISCSIADM_ABSTRACT /proc/net/unix
}

kernel_path() { # TARGET ADDRESS
  iscsiadm -m discovery -t sendtargets -p "$2:3260" >/dev/null || die "the kernel's discovery fails at $2"
  iscsiadm -m node -T "$1" -p "$2:3260" --login >/dev/null || die "the kernel cannot log in at $2"
  udevadm settle
}

# Whether LUN 1 has its multipath device, with two paths: its name is $dm then.
mapped() {
  local name
  for name in $(dmsetup ls --target multipath | awk '{print $1}'); do
    [ "$(dmsetup table "$name" | tr ' ' '\n' | grep -c '^8:')" = 2 ] &&
      multipath -ll "$name" 2>/dev/null | grep -q ':1 sd' && dm=$name && return 0
  done
  return 1
}
