#!/usr/bin/env bash
# Install Debian or Ubuntu packages where they are missing:  apt.sh "what for" PACKAGE...
set -euo pipefail
reason=$1
shift
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  as_root=(false)
fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true; then
  echo "$reason needs: $*. Install it with your system's package manager (sudo apt-get install $*), then try again." >&2
  exit 1
fi
echo "Installing $* ($reason) ..."
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq </dev/null
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
