package labhost

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/lab/internal/debian"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// A host's disk is an overlay: the image, which all share, below, and what the
// host writes above, in a file system of its own in memory. That has a size,
// so that a disk can run full, and fsync costs nothing.

func (p place) upper(host string) string { return filepath.Join(p.host(host), "disk", "upper") }
func (p place) root(host string) string  { return filepath.Join(p.host(host), "root") }

// hasDisk reports whether a host has what it wrote. After a reboot of this
// machine no host has.
func (p place) hasDisk(h *hostState) bool {
	if h.HostKey == "" || !sys.Mounted(filepath.Join(p.host(h.Name), "disk")) {
		return false
	}
	_, err := os.Stat(h.Image)
	return err == nil
}

// mountRoot mounts the overlay, if it is not.
func (p place) mountRoot(h *hostState) error {
	if sys.Mounted(p.root(h.Name)) {
		return nil
	}
	return sys.MountOverlay(p.root(h.Name), h.Image, p.upper(h.Name), filepath.Join(p.host(h.Name), "disk", "work"))
}

// newDisks gives hosts empty disks with their names, addresses and keys, and
// notes in the state what they were made of. The hosts must not be running.
func (p place) newDisks(s *state, hosts []*hostState, images debian.Built, labKey string) error {
	made := make([]hostState, len(hosts))
	var g errgroup.Group
	for i, h := range hosts {
		made[i] = *h
		g.Go(func() error { return p.newDisk(s, &made[i], images, labKey) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make the hosts' disks: %w", err)
	}
	for i, h := range hosts {
		*h = made[i]
	}
	return nil
}

// newDisk makes one host's disk. It changes h, and only reads s.
func (p place) newDisk(s *state, h *hostState, images debian.Built, labKey string) error {
	if err := sys.UnmountBelow(p.host(h.Name)); err != nil {
		return err
	}
	if err := os.RemoveAll(p.host(h.Name)); err != nil {
		return err
	}
	if err := sys.MountTmpfs(filepath.Join(p.host(h.Name), "disk"), s.DiskSize); err != nil {
		return err
	}
	h.Image, h.Pool = images.Bare, images.Pool
	// A bastion has nothing but SSH to do.
	if s.Image == Warm && h.Number != plan.BastionNumber {
		h.Image = images.Warm
	}
	if err := p.mountRoot(h); err != nil {
		return err
	}
	key, public, err := newKey(h.Name)
	if err != nil {
		return err
	}
	index, err := debian.Index(h.Pool)
	if err != nil {
		return err
	}
	// Confined to the root: a symbolic link in the image must not lead to a
	// file of this machine.
	root, err := os.OpenRoot(p.root(h.Name))
	if err != nil {
		return err
	}
	defer root.Close()
	files := append(hostFiles(s, h),
		file{"etc/machine-id", 0o444, 0, debian.NewMachineID() + "\n"},
		file{"etc/ssh/ssh_host_ed25519_key", 0o600, 0, string(key)},
		file{"etc/ssh/ssh_host_ed25519_key.pub", 0o644, 0, public + "\n"},
		file{"root/.ssh/authorized_keys", 0o600, 0, labKey + "\n"},
		file{"home/admin/.ssh/authorized_keys", 0o600, adminID, labKey + "\n"},
	)
	// The warm image knows the pool it was made with. If it is another by now,
	// the host must not have to find that out with an update.
	if list, err := root.ReadFile(debian.ListFile(s.Release)); err == nil && !bytes.Equal(list, index) {
		files = append(files, file{debian.ListFile(s.Release), 0o644, 0, string(index)})
	}
	for _, f := range files {
		if err := f.write(root); err != nil {
			return fmt.Errorf("write /%s: %w", f.path, err)
		}
	}
	h.HostKey = public
	return nil
}

// adminID is the id of the user admin: the first one Debian gives to people.
const adminID = 1000

// file is one file of a new disk.
type file struct {
	path string // relative to the root
	mode os.FileMode
	id   int // of the user and the group that own it
	text string
}

func (f file) write(root *os.Root) error {
	dir := path.Dir(f.path)
	if _, err := root.Stat(dir); err != nil {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := root.Chown(dir, f.id, f.id); err != nil {
			return err
		}
	}
	if err := root.WriteFile(f.path, []byte(f.text), f.mode); err != nil {
		return err
	}
	// The umask is this machine's business, and the file may have been there.
	if err := root.Chmod(f.path, f.mode); err != nil {
		return err
	}
	return root.Chown(f.path, f.id, f.id)
}

// hostFiles returns the files that say who and where a host is.
//
// In /etc/hosts is the host's own name and no other's, as an installer leaves
// it: sudo, hostnamectl and Patroni look that up, while making the hosts known
// to each other is up to whoever sets up a cluster.
func hostFiles(s *state, h *hostState) []file {
	dc := s.number(h.Datacenter)
	a, gw := s.Net.Host(dc, h.Number), s.Net.Gateway(dc)
	own, v4 := a.V6, ""
	if !s.IPv6Only {
		own = a.V4
		v4 = fmt.Sprintf("\n[Address]\nAddress=%s/24\n\n[Route]\nGateway=%s\n", a.V4, gw.V4)
	}
	return []file{
		{"etc/hostname", 0o644, 0, h.Name + "\n"},
		{"etc/hosts", 0o644, 0, fmt.Sprintf(`127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
%s %s
`, own, h.Name)},
		{"etc/systemd/network/10-host0.network", 0o644, 0, fmt.Sprintf(`[Match]
Name=host0

[Network]
IPv6AcceptRA=no

[Address]
Address=%s/64
DuplicateAddressDetection=none

[Route]
Gateway=%s
%s`, a.V6, gw.V6, v4)},
	}
}
