package fakehost

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// owned checks that an owner and a group exist.
func (o *Op) owned(owner, group string) error {
	for _, name := range []string{owner, group} {
		if _, ok := o.Machine.Accounts[name]; !ok {
			return o.Fail(1, "chown: invalid user: '%s:%s'", owner, group)
		}
	}
	return nil
}

// Write is what scripts do that put a whole file in place: checked, owned, and
// then visible. Its parameters are the path, owner, group, mode and digest.
func (o *Op) Write() error {
	if !o.Need(5) {
		return exitError(2)
	}
	p, owner, group, mode, sum := o.Arg(1), o.Arg(2), o.Arg(3), o.Arg(4), o.Arg(5)
	if n := o.Machine.Files.Get(p); n != nil && n.Type == Dir {
		return o.Fail(1, "%s is a directory", p)
	}
	if have := digest(o.Cmd.Stdin); have != sum {
		return o.Fail(1, "the content did not arrive whole: sha256 %s, expected %s", have, sum)
	}
	if o.Machine.ReadOnly {
		return o.Fail(1, "mktemp: failed to create file: Read-only file system")
	}
	if err := o.owned(owner, group); err != nil {
		return err
	}
	o.Machine.Files.Put(p, File{Mode: mode, Owner: owner, Group: group, Content: append([]byte(nil), o.Cmd.Stdin...)})
	return nil
}

func fileWrite(o *Op) error {
	o.learn()
	return o.Write()
}

// learn takes the passwords out of files that are known to have some.
func (o *Op) learn() {
	if path.Base(o.Arg(1)) != "credentials.json" {
		return
	}
	var secrets map[string]string
	if json.Unmarshal(o.Cmd.Stdin, &secrets) == nil {
		for _, s := range secrets {
			o.Machine.World.Learn(s)
		}
	}
}

func fileRemove(o *Op) error {
	for _, p := range o.Cmd.Args {
		n := o.Machine.Files.Get(p)
		if n != nil && n.Type == Dir {
			return o.Fail(1, "%s is a directory", p)
		}
		o.Machine.Files.Remove(p)
	}
	return nil
}

func dirMake(o *Op) error {
	if !o.Need(4) {
		return exitError(2)
	}
	p, owner, group, mode := o.Arg(1), o.Arg(2), o.Arg(3), o.Arg(4)
	if err := o.owned(owner, group); err != nil {
		return err
	}
	n := o.Machine.Files.Get(p)
	switch {
	case n != nil && n.Type != Dir:
		return o.Fail(1, "mkdir: cannot create directory '%s': File exists", p)
	case n == nil:
		o.Machine.Files.Put(p, File{Type: Dir, Mode: mode, Owner: owner, Group: group})
	default:
		n.Mode, n.Owner, n.Group = strings.TrimLeft(mode, "0"), owner, group
	}
	return nil
}

func dirRemove(o *Op) error {
	for _, p := range o.Cmd.Args {
		if n := o.Machine.Files.Get(p); n != nil && n.Type == Dir && len(o.Machine.Files.List(p)) == 0 {
			o.Machine.Files.Remove(p)
		}
	}
	return nil
}

func treePurge(o *Op) error {
	p := o.Arg(1)
	switch {
	case strings.Count(p, "/") < 3 || strings.HasSuffix(p, "/"):
		return o.Fail(1, "refusing to delete %s: it is too close to the root", p)
	case path.Clean(p) != p:
		return o.Fail(1, "refusing to delete %s: the path is not plain", p)
	}
	switch n := o.Machine.Files.Get(p); {
	case n == nil:
	case n.Type == Link:
		return o.Fail(1, "refusing to delete %s: it is a symbolic link", p)
	case n.Mount:
		for _, below := range o.Machine.Files.Below(p) {
			o.Machine.Files.Remove(below)
		}
	default:
		o.Machine.Files.Remove(p)
	}
	return nil
}
