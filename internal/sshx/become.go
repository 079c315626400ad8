package sshx

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

// becomeWord is how the launcher is to get root's rights.
func (f *Fleet) becomeWord() string {
	password := f.cfg.BecomePassword != ""
	switch {
	case f.cfg.Become == BecomeNone:
		return wire.BecomeNone
	case f.cfg.Become == BecomeDoas:
		return wire.BecomeDoas
	case f.cfg.Become == BecomeSudo && password:
		return wire.BecomeSudoPassword
	case f.cfg.Become == BecomeSudo:
		return wire.BecomeSudo
	case password:
		return wire.BecomeAutoPassword
	}
	return wire.BecomeAuto
}

// refusals are what sudo (the one in C and sudo-rs), doas and runuser say when
// they refuse, in the C locale. The first that fits counts.
var refusals = []struct {
	says *regexp.Regexp
	is   string
	hint string
}{
	{
		regexp.MustCompile(`(?i)you must have a tty`),
		"sudo wants a terminal (requiretty)",
		"Add \"Defaults:USER !requiretty\" to sudoers, with the user that logs in.",
	},
	{
		regexp.MustCompile(`(?i)incorrect password attempt|incorrect authentication attempt|sorry, try again|authentication failed, try again|doas: authentication failed|maximum \d+ incorrect`),
		"sudo does not accept the password",
		"Check the password for sudo: it is that of the user who logs in.",
	},
	{
		regexp.MustCompile(`(?i)not in the sudoers file|is not allowed to (execute|run)|may not run sudo|i'm afraid i can't do that|doas: operation not permitted`),
		"the user may not become root",
		"Allow it in sudoers (\"USER ALL=(ALL:ALL) NOPASSWD: ALL\") or in doas.conf (\"permit nopass USER\").",
	},
	{
		regexp.MustCompile(`(?i)a password is required|a terminal is required|interactive authentication is required|no password was provided|no askpass|doas: authentication required|doas: a tty is required`),
		"a password is needed to become root",
		"Set the password for sudo (become_password in the provider's ssh block), or add NOPASSWD to the user's line in sudoers (for doas, \"nopass\" in doas.conf). sudo says the same of users whom it would refuse even with a password.",
	},
	{
		regexp.MustCompile(`(?i)setuid|no new privileges|effective uid is not 0`),
		"sudo can't get root's rights in this session",
		"See that sudo is setuid root and that the SSH server does not run with no_new_privs or in an unprivileged container.",
	},
	{
		regexp.MustCompile(`(?i)account validation failure|account (has )?expired|password expired|account is locked`),
		"the account is locked or expired for sudo",
		"Renew the account or its password on the host (chage -l USER).",
	},
	{
		regexp.MustCompile(`runuser: user .* does not exist`),
		"the user does not exist on the host",
		"",
	},
}

// noBecome is a login that does not become the wanted user. The mutex is held.
func (s *session) noBecome(words string) *failure {
	f := &failure{kind: host.KindBecome}
	for _, r := range refusals {
		if r.says.MatchString(words) {
			f.err = fmt.Errorf("%s: %s", r.is, oneLine(words))
			f.hint = r.hint
			return f
		}
	}
	who := s.cmd.User
	if who == "" {
		who = "the user that logs in"
	}
	if words == "" {
		words = "nothing was printed"
	}
	f.err = fmt.Errorf("the script could not be started as %s (%s): %s", who, s.how(), oneLine(words))
	f.hint = "Log in as the same user and try \"sudo -n true\"."
	return f
}

func wrongPassword(what string) *failure {
	for _, r := range refusals {
		if r.is == what {
			return &failure{kind: host.KindBecome, err: fmt.Errorf("%s", r.is), hint: r.hint}
		}
	}
	return &failure{kind: host.KindBecome, err: fmt.Errorf("%s", what)}
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
