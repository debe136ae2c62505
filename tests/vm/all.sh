# Runs guest scripts one after the other in one boot: all.sh SCRIPT…; each one's exit code goes to /vm/out.
cd "$(dirname "$0")" || exit 1
mkdir -p /vm/out
failed=0
for script in "$@"; do
  echo "## $script"
  timeout 240 bash "./$script"
  code=$?
  echo "$code" >"/vm/out/$script.exit"
  [ "$code" = 0 ] || failed=1
done
exit "$failed"
