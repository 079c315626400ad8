package simetcd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// debianUnit is what counts of the unit's file in Debian's package.
const debianUnit = `EnvironmentFile=-/etc/default/etcd
ExecStart=` + binaryPath + ` $DAEMON_ARGS
`

// launch is what a unit starts etcd with.
type launch struct {
	program string
	args    []string          // the program itself among them
	environ map[string]string // of the process
	// settings are what etcd makes of all that, by the names of its variables.
	settings map[string]string
}

// launchOf reads a unit's file and its drop-ins, as systemd and then etcd do: what
// comes later counts over what came earlier, and an empty assignment drops that;
// flags count over the environment, and a configuration file is all that counts
// where there is one.
func launchOf(u *fakehost.Unit) (launch, error) {
	base := u.File
	if base == "" {
		base = debianUnit
	}
	l := launch{environ: map[string]string{}}
	var files []string
	command := ""
	for line := range strings.Lines(base + u.DropIns) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "EnvironmentFile":
			if files = append(files, value); value == "" {
				files = nil
			}
		case "Environment":
			k, v, _ := strings.Cut(value, "=")
			l.environ[k] = v
		case "ExecStart":
			command = value
		}
	}
	for _, file := range files {
		file, optional := strings.CutPrefix(file, "-")
		text := u.Machine.Files.Read(file)
		if text == nil && !optional {
			return l, fmt.Errorf("failed to load environment file %s", file)
		}
		if err := variables(l.environ, file, string(text)); err != nil {
			return l, err
		}
	}
	if shell, ok := strings.CutPrefix(command, "/bin/bash -c "); ok {
		text, err := strconv.Unquote(shell)
		if err != nil {
			return l, fmt.Errorf("ExecStart has %s", shell)
		}
		command = text[strings.Index(text, " /")+1:] // without the shell's own assignments
	}
	for _, word := range strings.Fields(command) {
		if name, ok := strings.CutPrefix(word, "$"); ok {
			l.args = append(l.args, strings.Fields(l.environ[name])...)
			continue
		}
		l.args = append(l.args, word)
	}
	if len(l.args) == 0 {
		return l, errors.New("the unit has no ExecStart=")
	}
	l.program = l.args[0]
	return l, l.read(u.Machine)
}

// read finds out what etcd makes of its arguments and its environment.
func (l *launch) read(m *fakehost.Machine) error {
	l.settings = map[string]string{}
	for k, v := range l.environ {
		if strings.HasPrefix(k, "ETCD_") && v != "" {
			l.settings[k] = v
		}
	}
	for i := 1; i < len(l.args); i++ {
		name, value, given := strings.Cut(strings.TrimLeft(l.args[i], "-"), "=")
		if !given {
			if i++; i == len(l.args) {
				return fmt.Errorf("flag needs an argument: -%s", name)
			}
			value = l.args[i]
		}
		l.settings["ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = value
	}
	if file := l.settings["ETCD_CONFIG_FILE"]; file != "" {
		l.settings = map[string]string{}
		return l.configFile(m, file)
	}
	if len(l.settings) == 0 {
		return errors.New("Debian's own defaults are not modelled: neither the drop-in nor /etc/default/etcd has any setting")
	}
	return nil
}

// configFile reads a configuration file.
func (l *launch) configFile(m *fakehost.Machine, file string) error {
	text := m.Files.ReadAs("etcd", file)
	if text == nil {
		return fmt.Errorf("error verifying flags, open %s: no such file or directory", file)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("error verifying flags, %s: %w", file, err)
	}
	set := func(key string, value any) {
		l.settings["ETCD_"+strings.ToUpper(strings.ReplaceAll(key, "-", "_"))] = fmt.Sprint(value)
	}
	for key, value := range doc {
		prefix, nested := map[string]string{"client-transport-security": "", "peer-transport-security": "peer-"}[key]
		if !nested {
			set(key, value)
			continue
		}
		section, ok := value.(map[string]any)
		if !ok && value != nil {
			return fmt.Errorf("error verifying flags, %s: %s is no section", file, key)
		}
		for k, v := range section {
			set(prefix+k, v)
		}
	}
	return nil
}

// ByHand lays etcd out on a machine as somebody else does: the program and
// etcdctl at a place, an account, a unit's file of their own, and further files by
// their paths. It starts nothing.
func (s *Sim) ByHand(m *fakehost.Machine, dir, version, unit string, files map[string]string) {
	m.Account("etcd")
	m.Files.Put(dir+"/etcd", fakehost.File{Mode: "755", Content: []byte(version)})
	m.Files.Put(dir+"/etcdctl", fakehost.File{Mode: "755", Content: []byte(version)})
	for path, text := range files {
		m.Files.Text(path, text)
	}
	m.Files.Text("/etc/systemd/system/"+unitName, unit)
	m.ReadUnitFiles()
	m.Units[unitName].Enabled = "enabled"
}

// Settings are what the running members have for one setting, by the name of its
// variable, by member.
func (st *Store) Settings(variable string) map[string]string {
	all := map[string]string{}
	for _, m := range st.sorted() {
		if m.runs() {
			all[m.name] = m.env[variable]
		}
	}
	return all
}
