#!/usr/bin/env bash
# Makes the documentation from the schema, templates/ and examples/, in the
# given folder: scripts/generate.sh docs

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_go
# The tool takes the terraform that is in the PATH. Without one it would
# download one; it does not know tofu.
command -v terraform >/dev/null || die "making the documentation takes terraform in the PATH"
bin/tfplugindocs generate --provider-name pgha --rendered-website-dir "$1"
