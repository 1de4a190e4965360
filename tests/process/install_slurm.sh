#!/bin/sh
# Installs Debian's Slurm for `make slurm`, where root may and it is missing; its services are neither started nor enabled.
# Whatever goes wrong, it says so in a sentence and ends with 0: the tests then skip with their own.
set -u
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && command -v srun >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Slurm is not installed, and without root or apt-get it cannot be installed here"
  exit 0
fi
echo "installing Debian's Slurm; its services are not started"
policy=/usr/sbin/policy-rc.d # Debian's way to say that a package may not start its services
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM HUP # dash runs no EXIT trap at a signal
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
fi
{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
  slurmctld slurmd slurm-client munge >/dev/null; } || echo "it could not be installed"
if command -v systemctl >/dev/null; then systemctl --quiet disable slurmctld slurmd munge 2>/dev/null || true; fi
