package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// File is a file as it should be.
type File struct {
	Path         string
	Content      []byte
	Owner, Group string // empty is root
	Mode         string // octal, such as "0640"; empty is "0644"
	Sensitive    bool   // its content is a secret
}

func (f File) defaults() File {
	if f.Owner == "" {
		f.Owner = "root"
	}
	if f.Group == "" {
		f.Group = "root"
	}
	if f.Mode == "" {
		f.Mode = "0644"
	}
	return f
}

// SHA256 returns the hex digest of the file's content.
func (f File) SHA256() string {
	sum := sha256.Sum256(f.Content)
	return hex.EncodeToString(sum[:])
}

// Same reports whether what a probe found is this file: content, owner and mode.
func (f File) Same(p Path) bool {
	f = f.defaults()
	return p.Type == Regular && p.SHA256 == f.SHA256() && p.Owner == f.Owner && p.Group == f.Group &&
		strings.TrimLeft(p.Mode, "0") == strings.TrimLeft(f.Mode, "0")
}

// WriteFile puts a file in place, atomically: whole, with its owner and mode,
// or not at all. Missing parent directories are made, owned by root, mode 0755.
func WriteFile(ctx context.Context, h host.Host, f File) error {
	f = f.defaults()
	_, err := h.Run(ctx, host.Cmd{
		// Its output is not sensitive, whatever the file: nothing of the
		// content is ever printed, and that the disk is full has to be told.
		Name:   "file.write",
		Script: script("file_write.sh"),
		Args:   []string{f.Path, f.Owner, f.Group, f.Mode, f.SHA256()},
		Stdin:  f.Content,
	})
	return err
}

// RemoveFiles removes files and links; those that are not there are fine.
func RemoveFiles(ctx context.Context, h host.Host, paths ...string) error {
	_, err := h.Run(ctx, host.Cmd{Name: "file.remove", Script: script("file_remove.sh"), Args: paths})
	return err
}

// MakeDir makes a directory, or sets the owner and mode of the one there is.
func MakeDir(ctx context.Context, h host.Host, path, owner, group, mode string) error {
	_, err := h.Run(ctx, host.Cmd{
		Name: "dir.make", Script: script("dir_make.sh"), Args: []string{path, owner, group, mode},
	})
	return err
}

// RemoveEmptyDirs removes directories, one after the other, if they are there
// and empty.
func RemoveEmptyDirs(ctx context.Context, h host.Host, paths ...string) error {
	_, err := h.Run(ctx, host.Cmd{Name: "dir.remove", Script: script("dir_remove.sh"), Args: paths})
	return err
}

// PurgeTree deletes a directory and all that is in it. It refuses paths close
// to the root, links and anything on another filesystem.
func PurgeTree(ctx context.Context, h host.Host, path string) error {
	_, err := h.Run(ctx, host.Cmd{Name: "tree.purge", Script: script("tree_purge.sh"), Args: []string{path}})
	return err
}
