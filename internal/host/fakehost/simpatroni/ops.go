package simpatroni

import (
	"encoding/base64"
	"regexp"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// handle models the operations of package patroni.
func (s *Sim) handle() {
	s.world.Handle("patroni.config", true, s.putConfig)
	s.world.Handle("postgres.control", false, s.control)
	s.world.Handle("postgres.stop", true, s.stopAlone)
	s.world.Handle("postgres.settings", false, s.settings)
	s.world.Handle("postgres.slots", false, s.slotNames)
	s.world.Handle("apt.exchange", true, s.exchange)
	s.world.Handle("postgres.scratch", false, func(*fakehost.Op) error { return nil }) // all libraries fit
	s.world.Handle("patroni.files", false, s.files)
	s.world.Handle("patroni.watchdog.look", false, s.lookWatchdog)
	s.world.Handle("patroni.watchdog", true, s.watchdog)
	s.world.HandleUnless("postgres.roles", func(c host.Cmd) bool { return !strings.Contains(string(c.Stdin), "alter role") }, s.roles)
}

// putConfig is config_put.sh: what Patroni would not accept is not put in place.
func (s *Sim) putConfig(o *fakehost.Op) error {
	cfg, err := parseConfig(o.Cmd.Stdin)
	if err != nil {
		return o.Fail(65, "%v", err)
	}
	for _, secret := range cfg.secrets() {
		s.world.Learn(secret)
	}
	if o.Machine.Installed("patroni") == "" {
		return o.Fail(127, "patroni: not found")
	}
	if problems := cfg.validate(o.Machine); len(problems) > 0 {
		return o.Fail(65, "%s", strings.Join(problems, "\n"))
	}
	return o.Write()
}

// stopAlone is pg_ctl stop, of a server that runs without Patroni.
func (s *Sim) stopAlone(o *fakehost.Op) error {
	n, err := s.server(o)
	if err != nil {
		return o.Fail(1, "pg_ctl: no server running")
	}
	if n.up {
		s.world.TB.Errorf("PostgreSQL on %s is stopped while its Patroni runs", n.m.Name)
	}
	n.shutdown()
	return nil
}

// control is pg_controldata.
func (s *Sim) control(o *fakehost.Op) error {
	n := s.nodeAt(o)
	if n == nil || n.cfg == nil && !s.adopt(n) {
		return o.Fail(1, "pg_controldata: error: could not open file \"%s/global/pg_control\" for reading: No such file or directory", o.Arg(2))
	}
	c := n.readControl()
	if c.SystemID == "" {
		return o.Fail(1, "pg_controldata: error: could not open file \"%s/global/pg_control\" for reading: No such file or directory", o.Arg(2))
	}
	o.Printf("pg_control version number:            1700\nDatabase system identifier:           %s\nDatabase cluster state:               %s\n", c.SystemID, c.State)
	o.Printf("Latest checkpoint location:           %X/%X\nLatest checkpoint's TimeLineID:       %d\n", c.LSN>>32, c.LSN&0xffffffff, c.Timeline)
	if strings.Contains(c.State, "recovery") {
		o.Printf("Minimum recovery ending location:     %X/%X\n", c.LSN>>32, c.LSN&0xffffffff)
	} else {
		o.Printf("Minimum recovery ending location:     0/0\n")
	}
	return nil
}

// adopt reads the configuration of a node that was never started in this
// world.
func (s *Sim) adopt(n *Node) bool {
	cfg, err := parseConfig(n.m.Files.Read(configPath))
	if err != nil {
		return false
	}
	n.cfg = cfg
	return true
}

// nodeAt is the node whose server an operation asks, as the operating system's
// own user.
func (s *Sim) nodeAt(o *fakehost.Op) *Node {
	if o.Cmd.User != "postgres" {
		s.world.TB.Errorf("%s runs as %q, not as postgres", o.Cmd.Name, o.Cmd.User)
	}
	return s.nodes[o.Machine.Name]
}

func (s *Sim) server(o *fakehost.Op) (*Node, error) {
	n := s.nodeAt(o)
	if n == nil || n.pg == nil {
		return nil, o.Fail(2, "psql: error: connection to server on socket \"%s/.s.PGSQL.%s\" failed: No such file or directory", o.Arg(2), o.Arg(1))
	}
	return n, nil
}

func (s *Sim) settings(o *fakehost.Op) error {
	n, err := s.server(o)
	if err != nil {
		return err
	}
	for _, name := range o.Cmd.Args[2:] {
		name = strings.ToLower(name)
		value, ok := n.pg.running[name]
		if !ok {
			continue
		}
		source := "configuration file"
		if _, ok := controlled[name]; ok {
			source = "command line"
		}
		waiting := "f"
		if _, ok := n.pending[name]; ok {
			waiting = "t"
		}
		o.Printf("%s\t%s\t%s\t%s\n", name, value, waiting, source)
	}
	return nil
}

func (s *Sim) slotNames(o *fakehost.Op) error {
	n, err := s.server(o)
	if err != nil {
		return err
	}
	for slot := range n.pg.slots {
		o.Printf("%s\n", slot)
	}
	return nil
}

// exchange is apt_exchange.sh: Patroni is stopped, or killed while PostgreSQL goes on,
// packages are installed, and it is started, whatever came of that.
func (s *Sim) exchange(o *fakehost.Op) error {
	u := o.Machine.Units[o.Arg(3)]
	n := s.nodes[o.Machine.Name]
	if u == nil || n == nil {
		return o.Fail(1, "Failed to stop unit %s: Unit not loaded.", o.Arg(3))
	}
	// It goes on whoever goes away meanwhile, but for the machine.
	pins, boot, done := o.Cmd.Args[3:], o.Machine.OS.BootID, false
	var err error
	var finish func()
	finish = func() {
		switch {
		case !o.Machine.Up || o.Machine.OS.BootID != boot:
			done = true
		case u.Running():
			s.world.After(100*time.Millisecond, finish)
		default:
			err = o.Install(pins...)
			u.Start()
			done = true
		}
	}
	if o.Arg(2) == "kill" {
		o.Tell("again", u)
		n.killed()
		u.Killed()
	} else {
		o.Tell("stop", u)
		u.Halt()
	}
	s.world.After(200*time.Millisecond, finish)
	if !o.Wait(func() bool { return done }) {
		return o.Fail(255, "gone")
	}
	return err
}

// files is secret_files.sh.
func (s *Sim) files(o *fakehost.Op) error {
	for _, p := range o.Cmd.Args {
		if n := o.Machine.Files.Get(p); n != nil {
			o.Printf("%s", base64.StdEncoding.EncodeToString(o.Machine.Files.Read(p)))
		}
		o.Printf("\n")
	}
	return nil
}

var alterRole = regexp.MustCompile(`alter role "([^"]+)" password E'([^']+)';`)

// roles is roles.sh: what is asked of it, and no more.
func (s *Sim) roles(o *fakehost.Op) error {
	n, err := s.server(o)
	if err != nil {
		return err
	}
	roles := s.passwords[n.cfg.Scope]
	statements := string(o.Cmd.Stdin)
	if strings.HasPrefix(statements, "select rolname") {
		for name, verifier := range roles {
			if strings.Contains(statements, "E'"+name+"'") {
				o.Printf("%s\t%s\n", name, verifier)
			}
		}
		return nil
	}
	if strings.HasPrefix(statements, "select authinfo") {
		if n.cfg.Citus == nil || n.cfg.Citus.Database != o.Arg(3) {
			return o.Fail(3, "ERROR:  relation \"pg_catalog.pg_dist_authinfo\" does not exist")
		}
		o.Printf("%s\n", s.logins[n.cfg.Scope])
		return nil
	}
	if !n.pg.primary {
		return o.Fail(3, "ERROR:  cannot execute ALTER ROLE in a read-only transaction")
	}
	found := alterRole.FindAllStringSubmatch(statements, -1)
	if len(found) != strings.Count(statements, "alter role") {
		s.world.TB.Errorf("statements about roles that are not modelled: %s", statements)
	}
	for _, m := range found {
		if !strings.HasPrefix(m[2], "SCRAM-SHA-256$") {
			s.world.TB.Errorf("the password of %s itself was sent to the server", m[1])
		}
		roles[m[1]] = m[2]
	}
	if m := setLogin.FindStringSubmatch(statements); m != nil {
		s.logins[n.cfg.Scope] = m[1]
	}
	return nil
}

var setLogin = regexp.MustCompile(`insert into pg_catalog.pg_dist_authinfo values \(0, E'postgres', E'([^']+)'\);`)

// Login is with what the nodes of a group log in to those of others.
func (s *Sim) Login(scope string) string { return s.logins[scope] }

// LetsIn reports whether a cluster's database has a password for a role.
func (s *Sim) LetsIn(scope, role, password string) bool {
	return postgres.ScramMatches(password, s.passwords[scope][role])
}
