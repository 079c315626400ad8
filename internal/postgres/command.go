package postgres

import (
	"fmt"
	"strings"
)

// placeholders are what may follow a "%" in commands that a replica runs.
var placeholders = map[string]string{"restore_command": "fpr", "archive_cleanup_command": "r", "recovery_end_command": "r"}

// CheckCommand says what is wrong with a command that a replica runs. From 16 on
// PostgreSQL ends at once, at every start, where a "%" has something else after it;
// "%%" is a "%" in all versions.
func CheckCommand(name, command string) error {
	known, ok := placeholders[name]
	if !ok {
		return nil
	}
	for rest := command; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		if after == "" || !strings.Contains(known+"%", after[:1]) {
			return fmt.Errorf("%s has %q in it; PostgreSQL knows only %%%s and, for a %% itself, %%%%", name, "%"+firstRune(after), strings.Join(strings.Split(known, ""), ", %"))
		}
		rest = after[1:]
	}
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}
