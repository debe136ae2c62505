# In the virtual machine: two of the kernel's own targets (LIO), each in a network namespace with a subnet of
# its own, one backing file and one serial number, CHAP both ways and both digests demanded. The kernel's NBD
# client has ext4 on the merged device; one network is cut silently under load and heals, then the other loses
# its link.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

size=$((96 * 1024 * 1024))
a=iqn.2026-11.test.lio:ha1 b=iqn.2026-11.test.lio:ha1partner
initiator=iqn.2026-11.test.vm:lio
user=host1 secret=a-secret-of-host1 mutual_user=san mutual_secret=a-secret-of-san

storage_network A 10.77.1
storage_network B 10.77.2
truncate -s "$size" "$run/lun.img"
lio_start A 10.77.1.10 "$a" "$initiator" "$user" "$secret" "$mutual_user" "$mutual_secret"
lio_start B 10.77.2.10 "$b" "$initiator" "$user" "$secret" "$mutual_user" "$mutual_secret"

(umask 077 && printf '%s\n' "$secret" >"$run/secret" && printf '%s\n' "$mutual_secret" >"$run/mutual")
portal_lines=(
  "chap = { user = \"$user\", secret_file = \"$run/secret\", mutual_user = \"$mutual_user\", mutual_secret_file = \"$run/mutual\" }"
  'header_digest = "crc32c"' 'data_digest = "crc32c"'
)
configure "$initiator" 10.77.1.10@10.77.1.1 10.77.2.10@10.77.2.1 'lun = 1' 'policy = "round-robin"' "${patient[@]}"

start_daemon
say "the device is up, $(status | jq -c '[.devices[0].paths[] | {name, state, session}]')"
for path in a:ha1 b:ha1partner; do
  status_says "any(.devices[0].paths[]; .name == \"$path\" and .session.header_digest == \"crc32c\"
    and .session.data_digest == \"crc32c\")" ||
    die "path $path does not use both digests"
done
# The daemon's sessions come from the configured addresses, and from no others.
for subnet in 10.77.1 10.77.2; do
  ss -Htn state established dst "$subnet.10" | awk '{print $3}' | grep -q "^$subnet\.1:" ||
    die "no session from $subnet.1 to $subnet.10: $(ss -Htn state established)"
done

attach 1
make_file_system
start_load

turns_reach 2
say "the network of A is cut silently"
cut_silently A
wait_for 90 "path a:ha1 leaving active" path_is_not a:ha1 active
turns_reach 6
say "the network of A heals"
heal_silent_cut A
wait_for 90 "path a:ha1 active again" path_is a:ha1 active
both_carry_io a:ha1 b:ha1partner

say "the link of B goes down"
ip -n B link set e0 down
wait_for 90 "path b:ha1partner leaving active" path_is_not b:ha1partner active
turns_reach 6
say "the link of B comes back"
ip -n B link set e0 up
wait_for 90 "path b:ha1partner active again" path_is b:ha1partner active
both_carry_io a:ha1 b:ha1partner

stop_load
check_file_system
status >"$keep/lio.json"
status_says '.devices[0] | .state == "ok" and .errors == 0 and ([.paths[].state] == ["active", "active"])
  and ([.paths[].session | .header_digest, .data_digest] | all(. == "crc32c"))' ||
  die "afterwards the device is not whole, or a digest is gone"
detach
stop_daemon

# A wrong secret of the target's must not be accepted: mutual CHAP is more than a formality.
say "the target's secret is changed: the login must be refused by us"
printf 'not-the-secret-of-san\n' >"$run/mutual"
"$mpio" serve --config "$run/mpio.toml" --control "$run/control.sock" >"$run/refused.log" 2>&1 &
refused=$!
started+=("$refused")
wait_for 60 "a word about authentication" grep -qiE 'authenticat|chap' "$run/refused.log"
status_says 'all(.devices[0].paths[]; .state != "active")' || die "a path is active without proof of the target"
kill -9 "$refused"
say "lio.sh passed in $SECONDS s"
