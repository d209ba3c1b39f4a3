#!/usr/bin/env bash
# Run a command in a container with a TPM beside it, which is gone when the command ends.
#
# usage: podman.sh IMAGE COMMAND [ARGUMENT...]
#
# The command finds the TPM where TPM2TOOLS_TCTI and TCTI say, at 127.0.0.1; the current directory
# is its working directory. HWTRUST_SWTPM_IMAGE names the TPM's image where that is not
# localhost/hwtrust/swtpm.
# Exit status: the command's; 1 the TPM does not come up; 2 usage; 125 podman cannot start one.
set -euo pipefail

if (($# < 2)); then
  printf 'usage: podman.sh IMAGE COMMAND [ARGUMENT...]\n' >&2
  exit 2
fi

readonly image=$1 tcti=swtpm:host=127.0.0.1,port=2321
shift

tpm=$(podman run --detach --rm --network none "${HWTRUST_SWTPM_IMAGE:-localhost/hwtrust/swtpm}")
trap 'podman kill "$tpm" >/dev/null 2>&1 || :' EXIT

# A new TPM makes its keys first.
ready=false
while ((SECONDS < 60)); do
  if podman exec "$tpm" tpm-health 2>/dev/null; then
    ready=true
    break
  fi
  podman container exists "$tpm" || break # it has ended, and is gone with its log
  sleep 0.3
done
if ! $ready; then
  printf 'podman.sh: no TPM from %s\n' "${HWTRUST_SWTPM_IMAGE:-localhost/hwtrust/swtpm}" >&2
  podman logs "$tpm" >&2 || :
  exit 1
fi

# The two share a network that holds nobody else, so the command reaches the TPM and nothing more.
podman run --rm --network "container:$tpm" --env TPM2TOOLS_TCTI="$tcti" --env TCTI="$tcti" \
  --volume "$PWD:/src" --workdir /src "$image" "$@"
