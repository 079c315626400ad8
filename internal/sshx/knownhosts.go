package sshx

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha1" // what known_hosts hashes names with
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownLine is one line of a known_hosts file, sshd(8).
//
// x/crypto's knownhosts package is not used for them: it refuses a whole file
// for one line it does not understand, takes a certificate authority's key for
// a host's own, and does not tell which algorithms to ask for.
type knownLine struct {
	source  string   // file and line, for people
	file    string   // empty for lines of the configuration
	hosts   []string // patterns; none if the name is hashed
	salt    []byte   // of the hashed name
	hash    []byte
	key     ssh.PublicKey
	ca      bool
	revoked bool
}

// parseKnownHosts reads a known_hosts file. Lines it can't read are skipped,
// as OpenSSH does, and returned as errors.
func parseKnownHosts(file string, data []byte) (lines []knownLine, bad []error) {
	name := file
	if name == "" {
		name = "known hosts of the configuration"
	}
	scan := bufio.NewScanner(bytes.NewReader(data))
	scan.Buffer(nil, 1<<20)
	for n := 1; scan.Scan(); n++ {
		text := bytes.TrimSpace(scan.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		source := fmt.Sprintf("%s:%d", name, n)
		marker, hosts, key, _, _, err := ssh.ParseKnownHosts(text)
		if err == nil && marker != "" && marker != "cert-authority" && marker != "revoked" {
			err = fmt.Errorf("unknown marker @%s", marker)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", source, err))
			continue
		}
		l := knownLine{
			source: source, file: file, hosts: hosts, key: key,
			ca: marker == "cert-authority", revoked: marker == "revoked",
		}
		if len(hosts) == 1 && strings.HasPrefix(hosts[0], "|") {
			l.hosts = nil
			if l.salt, l.hash, err = parseHashed(hosts[0]); err != nil {
				bad = append(bad, fmt.Errorf("%s: %w", source, err))
				continue
			}
		}
		lines = append(lines, l)
	}
	if err := scan.Err(); err != nil {
		bad = append(bad, fmt.Errorf("%s: %w", name, err))
	}
	return lines, bad
}

// matches reports whether the line is about a host, named as known_hosts does:
// "name", or "[name]:port" for a port other than 22.
func (l *knownLine) matches(name string) bool {
	if l.hash != nil {
		mac := hmac.New(sha1.New, l.salt)
		mac.Write([]byte(name))
		return hmac.Equal(mac.Sum(nil), l.hash)
	}
	found := false
	for _, pattern := range l.hosts {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if matchPattern(strings.ToLower(pattern), name) {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// parseHashed reads a name of the form "|1|salt|hash".
func parseHashed(entry string) (salt, hash []byte, err error) {
	parts := strings.Split(entry, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return nil, nil, errors.New("this is no hashed name")
	}
	if salt, err = base64.StdEncoding.DecodeString(parts[2]); err != nil {
		return nil, nil, err
	}
	hash, err = base64.StdEncoding.DecodeString(parts[3])
	if err == nil && len(hash) != sha1.Size {
		err = errors.New("this is no hash")
	}
	return salt, hash, err
}

// matchPattern knows "*" and "?", as OpenSSH does. It goes back to the last
// star only, so no pattern takes long.
func matchPattern(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// knownName is what known_hosts calls a host.
func knownName(addr string) string { return strings.ToLower(knownhosts.Normalize(addr)) }

// knownFile is a known_hosts file that is read again when it has changed: in
// one apply, another resource may add the key of a machine it created.
type knownFile struct {
	path string

	mu    sync.Mutex
	mtime time.Time
	size  int64
	lines []knownLine
}

// read returns the file's lines, none if there is no such file.
func (f *knownFile) read(warn func(error)) ([]knownLine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		f.lines, f.size, f.mtime = nil, 0, time.Time{}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("can't read the known host keys: %w", err)
	}
	if f.lines != nil && info.Size() == f.size && info.ModTime().Equal(f.mtime) {
		return f.lines, nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("can't read the known host keys: %w", err)
	}
	lines, bad := parseKnownHosts(f.path, data)
	for _, err := range bad {
		warn(err)
	}
	f.lines, f.size, f.mtime = lines, info.Size(), info.ModTime()
	return lines, nil
}
