#!/usr/bin/env bash
# Builds the provider and puts it where Terraform and OpenTofu look for
# providers before they ask a registry ("implied local mirror"). In a
# configuration, "terraform init" then finds version 0.0.1. After installing
# again, remove .terraform.lock.hcl there: it has the old build's checksum.

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_go
found=
for CLI in terraform tofu; do
	if command -v "$CLI" >/dev/null; then
		mirror ~/.terraform.d/plugins
		echo "installed for $CLI in ~/.terraform.d/plugins"
		found=yes
	fi
done
[ -n "$found" ] || find_cli
