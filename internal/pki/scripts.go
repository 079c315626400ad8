package pki

import (
	"embed"
	"io/fs"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

//go:embed scripts/*.sh
var scripts embed.FS

func script(name string) string {
	return Script(scripts, "scripts/"+name+".sh")
}

// Script is a script that may use what scripts/lib.sh defines: a scratch
// folder in memory and a configuration to sign with.
func Script(files fs.FS, name string) string {
	return remote.Script(scripts, "scripts/lib.sh") + remote.Script(files, name)
}
