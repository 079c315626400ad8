package sshx

import (
	"os/exec"
	"os/user"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// loggedInAs makes id(1) believe in a user.
func loggedInAs(name string, uid string) string {
	return "case $1 in -un) echo " + name + ";; *) echo " + uid + ";; esac"
}

// fakeSudo acts like sudo as far as we use it: -n, -S, -p, and a password, which
// it reads without taking a byte more.
const fakeSudo = `
password=hunter2hunter2 ask=
while :; do
	case $1 in
	-n) ask=no; shift ;;
	-S) ask=yes; shift ;;
	-p) prompt=$2; shift 2 ;;
	--) shift; break ;;
	*) break ;;
	esac
done
if [ "$ask" = no ]; then echo "sudo: a password is required" >&2; exit 1; fi
echo "We trust you have received the usual lecture" >&2
for try in 1 2 3; do
	printf '%s' "$prompt" >&2
	IFS= read -r line || { echo >&2; echo "sudo: no password was provided" >&2; exit 1; }
	[ "$line" = "$password" ] && exec "$@"
	echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2
exit 1`

// freeSudo asks for nothing.
const freeSudo = `while [ $# -gt 0 ]; do case $1 in -n|-S) shift;; -p) shift 2;; --) shift; break;; *) break;; esac; done; BECAME=sudo exec "$@"`

func TestBecome(t *testing.T) {
	deploy := loggedInAs("deploy", "1000")
	say := func(text string) string { return "echo \"" + text + "\" >&2; exit 1" }
	tests := []struct {
		name     string
		programs map[string]string
		become   Become
		password string
		user     string
		want     string // output
		fails    []string
	}{
		{name: "root needs nothing", programs: map[string]string{"id": loggedInAs("root", "0"), "sudo": say("called")}, want: "ran"},
		{name: "root by number", programs: map[string]string{"id": loggedInAs("toor", "0"), "sudo": say("called")}, want: "ran"},
		{name: "the login user needs nothing", programs: map[string]string{"id": deploy, "sudo": say("called")}, user: host.LoginUser, want: "ran"},
		{name: "already the wanted user", programs: map[string]string{"id": deploy, "sudo": say("called")}, user: "deploy", want: "ran"},
		{name: "sudo without a password", programs: map[string]string{"id": deploy, "sudo": freeSudo}, want: "sudo ran"},
		{name: "sudo, asked for", programs: map[string]string{"id": deploy, "sudo": freeSudo}, become: BecomeSudo, want: "sudo ran"},
		{name: "sudo with a password", programs: map[string]string{"id": deploy, "sudo": fakeSudo}, password: "hunter2hunter2", want: "ran"},
		{name: "a password that is not asked for", programs: map[string]string{"id": deploy, "sudo": freeSudo}, password: "hunter2hunter2", want: "sudo ran"},
		{name: "doas", programs: map[string]string{"id": deploy, "doas": `[ "$1" = -n ] && shift; BECAME=doas exec "$@"`}, become: BecomeDoas, want: "doas ran"},
		{name: "another user, from root", programs: map[string]string{"id": loggedInAs("root", "0"), "runuser": `[ "$1 $2 $3" = "-u daemon --" ] && shift 3; BECAME=runuser exec "$@"`}, user: "daemon", want: "runuser ran"},
		{name: "another user, through sudo", programs: map[string]string{"id": deploy, "sudo": freeSudo, "runuser": `shift 3; BECAME="$BECAME runuser" exec "$@"`}, user: "daemon", want: "sudo runuser ran"},
		{name: "a prompt of PAM's", programs: map[string]string{"id": deploy, "sudo": `printf "LDAP Password: " >&2; read -r p; [ "$p" = hunter2hunter2 ] || exit 1; while [ "$1" != -- ]; do shift; done; shift; exec "$@"`}, password: "hunter2hunter2", want: "ran"},

		{name: "a password is needed", programs: map[string]string{"id": deploy, "sudo": fakeSudo},
			fails: []string{"a password is needed to become root", "sudo: a password is required", "NOPASSWD"}},
		{name: "the wrong password", programs: map[string]string{"id": deploy, "sudo": fakeSudo}, password: "wrong-password",
			fails: []string{"does not accept the password"}},
		{name: "not a sudoer", programs: map[string]string{"id": deploy, "sudo": say("deploy is not in the sudoers file.")},
			fails: []string{"the user may not become root", "sudoers"}},
		{name: "requiretty", programs: map[string]string{"id": deploy, "sudo": say("sudo: sorry, you must have a tty to run sudo")},
			fails: []string{"requiretty", "!requiretty"}},
		{name: "doas refuses", programs: map[string]string{"id": deploy, "doas": say("doas: Operation not permitted")}, become: BecomeDoas,
			fails: []string{"the user may not become root", "doas.conf"}},
		{name: "switched off", programs: map[string]string{"id": deploy, "sudo": say("called")}, become: BecomeNone,
			fails: []string{"logged in as deploy", "switched off"}},
		{name: "no such user", programs: map[string]string{"id": loggedInAs("root", "0"), "runuser": say("runuser: user nobody-here does not exist or the user entry does not contain all the required fields")}, user: "nobody-here",
			fails: []string{"does not exist on the host"}},
		{name: "something else", programs: map[string]string{"id": deploy, "sudo": say("sudo: the moon is in the wrong house")},
			fails: []string{"the moon is in the wrong house", "exit status 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := withPrograms(t, tt.programs)
			s := serve(t, sshtest.Config{Env: env})
			cfg := trust(s)
			cfg.User = "deploy"
			cfg.Become, cfg.BecomePassword = tt.become, tt.password
			h := newFleet(t, cfg).Host(target(s))
			res, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: `echo $BECAME ran; cat`, User: tt.user, Stdin: []byte("input")})
			if tt.fails != nil {
				e := wantError(t, err, host.KindBecome, tt.fails...)
				if strings.Contains(e.Error()+e.Hint, "hunter2") {
					t.Errorf("the password is in %v", err)
				}
				if host.OutcomeUnknown(err) || !host.Unreachable(err) {
					t.Error("it has not run, and nothing is known of the host")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(res.Stdout), tt.want+"\ninput"; got != want {
				t.Errorf("output %q, want %q", got, want)
			}
			if len(res.Stderr) > 0 {
				t.Errorf("what sudo says is not the script's: %q", res.Stderr)
			}
		})
	}
}

// TestAbsent runs where only the test's programs exist, since the real ones may
// be installed here.
func TestAbsent(t *testing.T) {
	deploy, root := loggedInAs("deploy", "1000"), loggedInAs("root", "0")
	tests := []struct {
		name     string
		programs map[string]string
		become   Become
		user     string
		kind     host.Kind
		fails    string
	}{
		{"sudo", map[string]string{"id": deploy, "timeout": ""}, BecomeSudo, "", host.KindBecome, "sudo is not installed"},
		{"doas", map[string]string{"id": deploy, "timeout": ""}, BecomeDoas, "", host.KindBecome, "doas is not installed"},
		{"both", map[string]string{"id": deploy, "timeout": ""}, BecomeAuto, "", host.KindBecome, "sudo is not installed"},
		{"sudo, but doas", map[string]string{"id": deploy, "timeout": "", "doas": "echo doas: Operation not permitted >&2"}, BecomeAuto, "", host.KindBecome, "doas.conf"},
		{"timeout", map[string]string{"id": root}, BecomeAuto, "", host.KindSession, `"timeout" is not installed`},
		{"timeout, for who logs in", map[string]string{"id": deploy}, BecomeAuto, host.LoginUser, host.KindSession, `"timeout" is not installed`},
		{"runuser", map[string]string{"id": root, "timeout": ""}, BecomeAuto, "postgres", host.KindSession, `"runuser" is not installed`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := withPrograms(t, tt.programs)
			dir := strings.TrimSuffix(strings.TrimPrefix(env[0], "PATH="), ":/usr/bin:/bin")
			s := serve(t, sshtest.Config{Shell: func(line string) *exec.Cmd {
				line = strings.ReplaceAll(line, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", dir)
				cmd := exec.Command("/bin/sh", "-c", line)
				cmd.Env = []string{"PATH=" + dir}
				return cmd
			}})
			cfg := trust(s)
			cfg.Become = tt.become
			_, err := newFleet(t, cfg).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op", Script: "true", User: tt.user})
			wantError(t, err, tt.kind, tt.fails)
		})
	}
}

// TestRefusals pins what real programs were seen to say.
func TestRefusals(t *testing.T) {
	tests := map[string]string{
		"sudo: a password is required": "a password is needed",
		"sudo: a terminal is required to read the password; either use the -S option":               "a password is needed",
		"sudo: interactive authentication is required":                                              "a password is needed",
		"sudo: sorry, you must have a tty to run sudo":                                              "requiretty",
		"Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt":     "does not accept",
		"sudo: Authentication failed, try again.":                                                   "does not accept",
		"deploy is not in the sudoers file.\nThis incident has been reported":                       "may not become root",
		"Sorry, user deploy is not allowed to execute '/usr/bin/timeout' as root on pg1.":           "may not become root",
		"sudo: I'm sorry deploy. I'm afraid I can't do that":                                        "may not become root",
		"doas: Operation not permitted":                                                             "may not become root",
		"doas: Authentication required":                                                             "a password is needed",
		"sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set":                    "can't get root's rights",
		"sudo: effective uid is not 0, is sudo installed setuid root?":                              "can't get root's rights",
		"sudo: The \"no new privileges\" flag is set":                                               "can't get root's rights",
		"sudo: account validation failure, is your account locked?":                                 "locked or expired",
		"runuser: user x does not exist or the user entry does not contain all the required fields": "does not exist",
	}
	s := &session{}
	for words, want := range tests {
		f := s.noBecome(words)
		if f.kind != host.KindBecome || !strings.Contains(f.err.Error(), want) {
			t.Errorf("%q is taken for %v, want %q", words, f, want)
		}
	}
}

// TestRealRunuser becomes another user with the real program, which only root
// can.
func TestRealRunuser(t *testing.T) {
	me, err := user.Current()
	if err != nil || me.Uid != "0" {
		t.Skip("not root")
	}
	if _, err := user.Lookup("nobody"); err != nil {
		t.Skip("no user nobody")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	h, _ := connect(t, sshtest.Config{Env: []string{"PATH=/usr/bin:/bin"}})
	res := mustRun(t, h, host.Cmd{Script: `echo "$(id -un) $HOME $USER $PWD"; cat`, User: "nobody", Stdin: []byte("in")})
	if got, want := string(res.Stdout), "nobody "+nobody.HomeDir+" nobody /\nin"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = h.Run(testContext(t), host.Cmd{Name: "op", Script: "true", User: "nobody-by-that-name"})
	wantError(t, err, host.KindBecome, "does not exist")
	if testing.Short() {
		return
	}
	_, err = h.Run(testContext(t), host.Cmd{Name: "op", Script: "sleep 600", User: "nobody", Timeout: time.Second})
	wantError(t, err, host.KindTimeout)
}
