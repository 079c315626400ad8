package sshx

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// verdict says what a session that is over has come to, nil if its script
// succeeded. ran is for how long the script ran.
func (s *session) verdict(ran time.Duration) *failure {
	lost := error(nil)
	s.mu.Lock()
	cut := !s.exited || s.stream == nil && !s.complete
	s.mu.Unlock()
	if cut {
		lost = s.conn.lostBy()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.givenUp = true
		return s.notStarted(lost)
	}
	limit := time.Duration(s.cmd.Seconds) * time.Second
	switch {
	case s.exited && !s.term && !cut:
		if s.code == 0 {
			return nil
		}
		return &failure{kind: host.KindExit, code: s.code, err: fmt.Errorf("exit status %d", s.code)}

	// timeout(1) ends with 124, or is killed together with the script that
	// did not heed its first signal. A script that itself ends so has told
	// its status, and did not get here.
	case limit > 0 && (s.status == 124 || ran >= limit && (s.status == 137 || s.signal == "KILL")):
		return &failure{kind: host.KindTimeout, err: fmt.Errorf("the script ran longer than %s", limit)}

	case lost != nil:
		return &failure{kind: host.KindLost, err: lost}
	case s.exited && !s.term:
		return &failure{kind: host.KindLost, err: errors.New("the session ended before all of the output was there")}
	case s.term, s.signal != "", s.status > 128:
		return &failure{kind: host.KindLost, err: fmt.Errorf("the script was ended from outside (%s); the host may be going down", s.how())}
	}
	return &failure{kind: host.KindLost, err: fmt.Errorf("the session ended without the script's result (%s)", s.how())}
}

// how says how the login shell ended.
func (s *session) how() string {
	switch {
	case s.signal != "":
		return "signal " + s.signal
	case s.status >= 0:
		return fmt.Sprintf("exit status %d", s.status)
	}
	return "no exit status"
}

// notStarted says why the script was not started. The mutex is held.
func (s *session) notStarted(lost error) *failure {
	words := s.words()
	switch {
	case lost != nil:
		return &failure{kind: host.KindUnreachable, err: lost, passing: true}
	case s.refused:
		return &failure{
			kind: host.KindSession, err: errors.New("the SSH server refuses to run commands"),
			hint: "See that neither the account's authorized_keys nor sshd_config forces a command or a subsystem for this login.",
		}
	case s.absent != "":
		f := s.missing()
		f.absent = s.absent
		return f
	case s.noRights != "":
		return &failure{
			kind: host.KindBecome,
			err:  fmt.Errorf("logged in as %s, the script wants to run as %s, and becoming root is switched off", s.noRights, s.cmd.User),
			hint: "Log in as root, or let the commands use sudo or doas.",
		}
	case s.wrong:
		return wrongPassword("sudo does not accept the password")
	case !s.up && s.status < 0 && s.signal == "":
		return &failure{kind: host.KindUnreachable, err: errors.New("the session ended before the script was started"), passing: true}
	case !s.up:
		return s.noShell(words)
	}
	return s.noBecome(words)
}

// words is what was printed instead of a beginning.
func (s *session) words() string {
	redact := s.conn.fleet.cfg.Redact
	return lastLines(redact.Apply(string(s.noise[1].last())), 5)
}

// noShell is a login that does not run commands. The mutex is held.
func (s *session) noShell(words string) *failure {
	said := lastLines(s.conn.fleet.cfg.Redact.Apply(string(s.noise[0].last())), 5)
	all := strings.TrimSpace(said + "\n" + words)
	err := fmt.Errorf("the login shell did not run the command (%s), and printed nothing", s.how())
	if all != "" {
		err = fmt.Errorf("the login shell did not run the command (%s); it printed: %s", s.how(), all)
	}
	hint := "Log in with \"ssh HOST /bin/true\" to see it. A forced command (in authorized_keys or sshd_config), a login shell such as nologin, rbash or csh, or an \"exit\" or \"exec\" in a shell's start-up file prevents commands from being run."
	return &failure{kind: host.KindSession, err: err, hint: hint}
}

func (s *session) missing() *failure {
	switch s.absent {
	case "sudo", "doas":
		return &failure{
			kind: host.KindBecome, err: fmt.Errorf("%s is not installed on the host", s.absent),
			hint: fmt.Sprintf("Install %s, or log in as root.", s.absent),
		}
	}
	return &failure{
		kind: host.KindSession, err: fmt.Errorf("the program %q is not installed on the host", s.absent),
		hint: "Install coreutils and util-linux.",
	}
}

// slowStart is a script that did not start in time, and now never will: nobody
// will tell it to go. It is nil if the script did start at the last moment.
func (s *session) slowStart(limit time.Duration) *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	s.givenUp = true
	words := s.words()
	if !s.up {
		f := s.noShell(words)
		f.err = fmt.Errorf("within %s, %w", limit, f.err)
		return f
	}
	f := s.noBecome(words)
	f.err = fmt.Errorf("within %s, %w", limit, f.err)
	return f
}
