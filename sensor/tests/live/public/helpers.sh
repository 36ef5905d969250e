# What the acts have in common.
set -eu

# A harmless program under a name that matters: the stand-in, or a copy of the one given.
named() { cp "${2:-/opt/acts/stand_in}" "/usr/local/bin/$1"; }
# The same, anywhere.
copy() { cp "${2:-/opt/acts/stand_in}" "$1"; }
# A script of its own.
program() { printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod 755 "$1"; }
# As a user without rights, and as one who has a single one of root's.
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
may() {
    local right=$1
    shift
    nobody --inh-caps "+$right" --ambient-caps "+$right" "$@"
}
# Beside the first process of what looks like a container.
contained() { sh -c 'echo 0 >"$BOX/cgroup.procs"; exec "$@"' contained "$@"; }
