package sshx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// acceptedFile is where the policy accept_new keeps keys: a file of our own,
// not the user's known_hosts. Other processes write to it too.
type acceptedFile struct {
	knownFile
}

// add appends the key of a host, unless it is there meanwhile. It fails if
// somebody accepted another one meanwhile.
func (a *acceptedFile) add(addr string, key ssh.PublicKey) error {
	if err := os.MkdirAll(filepath.Dir(a.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	err = a.append(f, addr, key)
	return errors.Join(err, f.Close())
}

func (a *acceptedFile) append(f *os.File, addr string, key ssh.PublicKey) error {
	// The lock of the file is one between processes, the mutex one between
	// connections of this process.
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := lockFile(f); err != nil {
		return fmt.Errorf("can't lock %s: %w", a.path, err)
	}
	data, err := os.ReadFile(a.path)
	if err != nil {
		return err
	}
	name := knownName(addr)
	lines, _ := parseKnownHosts(a.path, data)
	for _, l := range lines {
		if !l.matches(name) {
			continue
		}
		if sameKey(l.key, key) {
			return nil
		}
		return refuse("Find out which of the two is the host's.",
			"%s has offered %s, and meanwhile %s, which is in %s", name, describe(key), describe(l.key), l.source)
	}
	line := name + " " + string(ssh.MarshalAuthorizedKey(key))
	if len(data) > 0 && data[len(data)-1] != '\n' {
		line = "\n" + line
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Sync()
}
