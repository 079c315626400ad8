package patroni

import "testing"

func TestServerSettingIs(t *testing.T) {
	for _, c := range []struct {
		name, value, want string
		is                bool
	}{
		{"work_mem", "8MB", "8192kB", true},
		{"work_mem", "8MB", "16MB", false},
		{"archive_command", "cp %p /srv", "cp %p /srv", true},
		{"archive_command", "cp %p /srv", "false", false},
		{"archive_command", "(disabled)", "cp %p /srv", true}, // archive_mode is off
		{"restore_command", "(disabled)", "cp /srv/%f %p", false},
	} {
		if got := (ServerSetting{Value: c.value, Source: "default"}).is(c.name, c.want); got != c.is {
			t.Errorf("%s shows %q: %t with %q", c.name, c.value, got, c.want)
		}
	}
	// A local socket has none of these.
	for source, want := range map[string]bool{"default": false, "configuration file": true} {
		if got := (ServerSetting{Value: "0", Source: source}).is("tcp_user_timeout", "60s"); got != want {
			t.Errorf("tcp_user_timeout by %s: %t", source, got)
		}
	}
}
