// Package remote holds the typed operations on a host: files, packages, units,
// locks and facts. Each is one constant script of scripts/, run in one
// session; arguments are its parameters and content is its standard input.
package remote

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed scripts/*.sh
var scripts embed.FS

func script(name string) string { return Script(scripts, "scripts/"+name) }

// Script joins script files without their comments, which are for readers of
// this repository. It panics on a file that is not there: scripts are
// embedded, so that is a mistake in the program.
func Script(files fs.FS, names ...string) string {
	var out strings.Builder
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			panic(err)
		}
		for line := range strings.Lines(string(b)) {
			if trimmed := strings.TrimLeft(line, "\t "); trimmed == "\n" || strings.HasPrefix(trimmed, "#") {
				continue
			}
			out.WriteString(line)
		}
	}
	return out.String()
}
