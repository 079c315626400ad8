package fakehost

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// probe answers the questions of remote.Probe in the words of its script.
func probe(o *Op) error {
	n := 0
	var contents bytes.Buffer
	archive := tar.NewWriter(&contents)
	for line := range strings.Lines(string(o.Cmd.Stdin)) {
		n++
		verb, argument, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		out := func(field, value string) {
			if field != "content" {
				o.Printf("%d.%s=%s\n", n, field, value)
				return
			}
			err := archive.WriteHeader(&tar.Header{Name: argument, Size: int64(len(value))})
			if err == nil {
				_, err = archive.Write([]byte(value))
			}
			if err != nil {
				o.Machine.World.TB.Errorf("unable to pack %s: %v", argument, err)
			}
		}
		answer, ok := questions[verb]
		if !ok {
			o.Machine.World.TB.Errorf("the question %q is not modelled", verb)
			continue
		}
		answer(o.Machine, argument, out)
	}
	if err := archive.Close(); err != nil {
		return err
	}
	o.Printf("0.contents=%s\n", base64.StdEncoding.EncodeToString(contents.Bytes()))
	return nil
}

var questions = map[string]func(m *Machine, argument string, out func(field, value string)){
	"os": func(m *Machine, _ string, out func(string, string)) {
		s := m.OS
		for _, f := range [][2]string{
			{"ID", s.ID}, {"VERSION_ID", s.Version}, {"VERSION_CODENAME", s.Codename}, {"PRETTY_NAME", s.Pretty}, {"arch", s.Arch},
			{"kernel", s.Kernel}, {"hostname", s.Hostname}, {"machine_id", s.MachineID}, {"boot_id", s.BootID}, {"cpus", strconv.Itoa(s.CPUs)},
			{"init", s.Init}, {"memory_kib", fmt.Sprint(s.MemoryKiB)}, {"memory_available_kib", fmt.Sprint(s.MemoryKiB / 2)},
			{"swap_kib", fmt.Sprint(s.SwapKiB)}, {"hugepages", "0"},
		} {
			out(f[0], f[1])
		}
	},
	"clock": func(m *Machine, _ string, out func(string, string)) {
		out("now", fmt.Sprint(time.Now().Add(m.Skew).UnixNano()))
	},
	"synchronized": func(m *Machine, _ string, out func(string, string)) {
		out("synchronized", map[bool]string{true: "yes", false: "no"}[m.Synchronized])
	},
	"time_service": func(m *Machine, _ string, out func(string, string)) { out("service", m.TimeService) },
	"disk": func(m *Machine, p string, out func(string, string)) {
		for p != "/" && m.Files.Get(p) == nil {
			p = p[:max(1, strings.LastIndexByte(p, '/'))]
		}
		out("at", p)
		out("size_kib", fmt.Sprint(m.DiskKiB*2))
		out("free_kib", fmt.Sprint(m.DiskKiB))
		out("mount", "/")
		out("writable", map[bool]string{true: "no", false: "yes"}[m.ReadOnly])
		out("filesystem", "ext2/ext3")
	},
	"path":    func(m *Machine, p string, out func(string, string)) { m.path(p, out) },
	"content": content,
	"list": func(m *Machine, p string, out func(string, string)) {
		if n := m.Files.Get(p); n != nil && n.Type == Dir {
			text := ""
			for _, name := range m.Files.List(p) {
				text += name + "\n"
			}
			out("entries", base64.StdEncoding.EncodeToString([]byte(text)))
		}
	},
	"package": func(m *Machine, name string, out func(string, string)) {
		if p := m.Packages[name]; p != nil {
			out("status", p.status())
			out("version", p.Version)
		}
	},
	"source": func(m *Machine, source string, out func(string, string)) {
		for _, name := range slices.Sorted(maps.Keys(m.Packages)) {
			if v := m.Installed(name); v != "" && cmp.Or(m.Source[name], name) == source {
				out("package", name+"="+v)
			}
		}
	},
	"available": func(m *Machine, name string, out func(string, string)) {
		for _, v := range m.Lists[name] {
			out("version", v)
		}
	},
	"unit":      unitFacts,
	"process":   processFacts,
	"port":      port,
	"addresses": func(m *Machine, _ string, out func(string, string)) { out("address", "eth0 "+m.Address+"/24") },
	"lookup": func(m *Machine, _ string, out func(string, string)) {
		out("ms", strconv.FormatInt(m.LookupTime.Milliseconds(), 10))
	},
	"resolve": func(m *Machine, name string, out func(string, string)) {
		for _, a := range m.Names[name] {
			out("address", a)
		}
	},
	"debian": func(m *Machine, _ string, out func(string, string)) {
		for _, version := range m.Files.List("/etc/postgresql") {
			for _, name := range m.Files.List("/etc/postgresql/" + version) {
				if m.Files.Get("/etc/postgresql/"+version+"/"+name+"/postgresql.conf") != nil {
					out("cluster", version+"|"+name+"|5432|||/var/lib/postgresql/"+version+"/"+name)
				}
			}
		}
	},
	"account": func(m *Machine, name string, out func(string, string)) {
		if uid, ok := m.Accounts[name]; ok {
			out("uid", strconv.Itoa(uid))
		}
	},
	"sysctl": func(m *Machine, key string, out func(string, string)) { out("value", m.Sysctl[key]) },
	"tool": func(m *Machine, name string, out func(string, string)) {
		for _, dir := range []string{"/usr/local/bin/", "/usr/bin/"} {
			if m.Files.Get(dir+name) != nil {
				out("path", dir+name)
				return
			}
		}
	},
}

func (m *Machine) path(p string, out func(string, string)) {
	n := m.Files.Get(p)
	if n == nil {
		out("type", "missing")
		return
	}
	out("type", string(n.Type))
	switch n.Type {
	case Link:
		out("target", n.Target)
		return
	case Regular:
		out("sha256", digest(n.Content))
		out("size", strconv.Itoa(len(n.Content)))
		out("modified", fmt.Sprint(n.Modified))
	case Dir:
		out("empty", map[bool]string{true: "yes", false: "no"}[len(m.Files.List(p)) == 0])
	}
	out("mode", n.Mode)
	out("owner", n.Owner)
	out("group", n.Group)
}

func content(m *Machine, p string, out func(string, string)) {
	m.path(p, out)
	if n := m.Files.Get(p); n != nil && n.Type == Regular {
		if len(n.Content) <= 1<<20 {
			out("content", string(n.Content))
		}
	}
}

func unitFacts(m *Machine, name string, out func(string, string)) {
	u := m.Units[name]
	if u == nil {
		out("LoadState", "not-found")
		out("ActiveState", "inactive")
		out("SubState", "dead")
		out("UnitFileState", "")
		return
	}
	out("LoadState", "loaded")
	out("ActiveState", u.Active)
	out("SubState", u.Sub)
	out("UnitFileState", u.Enabled)
	out("NeedDaemonReload", map[bool]string{true: "yes", false: "no"}[u.NeedsReload])
	out("MainPID", strconv.Itoa(u.PID))
	out("NRestarts", strconv.Itoa(u.Restarts))
	out("Result", u.Result)
	out("FragmentPath", "/usr/lib/systemd/system/"+name)
	out("InvocationID", fmt.Sprintf("%032x", Hash(3, m.Name, name, u.starts)))
}

// processFacts are what the process of a unit runs with, if its service says so.
func processFacts(m *Machine, name string, out func(string, string)) {
	u := m.Units[name]
	if u == nil || !u.Running() {
		return
	}
	if s, ok := u.Service.(interface {
		Process() (program, account string, args []string, env map[string]string)
	}); ok {
		program, account, args, env := s.Process()
		out("program", program)
		out("account", account)
		out("started", fmt.Sprint(u.started))
		text := ""
		for _, key := range slices.Sorted(maps.Keys(env)) {
			text += key + "=" + env[key] + "\x00"
		}
		out("arguments", base64.StdEncoding.EncodeToString([]byte(strings.Join(args, "\x00")+"\x00")))
		out("environment", base64.StdEncoding.EncodeToString([]byte(text)))
	}
}

func port(m *Machine, text string, out func(string, string)) {
	n, _ := strconv.Atoi(text)
	var lines []string
	if l, ok := m.listeners[n]; ok {
		lines = append(lines, net.JoinHostPort("0.0.0.0", text)+` users:(("`+l.process+`",pid=1,fd=3))`)
	}
	if who, ok := m.Ports[n]; ok {
		lines = append(lines, net.JoinHostPort("0.0.0.0", text)+` users:(("`+who+`",pid=2,fd=3))`)
	}
	slices.Sort(lines)
	for _, l := range lines {
		out("listen", l)
	}
}
