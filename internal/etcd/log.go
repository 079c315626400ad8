package etcd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// logLines is how much of etcd's log is looked through, in lines: a crash brings
// its stack along, and an etcd that ends again and again may be under way again
// when it is looked at. A start with data writes more than a hundred.
const logLines = 500

// telling picks what is worth reading from etcd's log, which is JSON: what it
// complains of, without stacks, each complaint once, the newest last. If it
// complains of nothing, its last lines.
func telling(lines []string) []string {
	var complaints, all []string
	for _, l := range lines {
		text, complains := readable(l)
		if text == "" {
			continue
		}
		all = append(all, text)
		if complains {
			complaints = slices.DeleteFunc(complaints, func(s string) bool { return s == text })
			complaints = append(complaints, text)
		}
	}
	picked := complaints
	if len(picked) == 0 {
		picked = all
	}
	return picked[max(0, len(picked)-12):]
}

// readable turns a line into words, and says whether it is a complaint. It is
// empty for a part of a stack.
func readable(line string) (text string, complains bool) {
	var entry map[string]any
	if json.Unmarshal([]byte(line), &entry) != nil {
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "goroutine ") || strings.Contains(line, "(0x") || strings.HasPrefix(line, "main.") {
			return "", false
		}
		line = strings.TrimSpace(line)
		return line, strings.HasPrefix(line, "panic:") || strings.Contains(line, "Failed with result")
	}
	level, _ := entry["level"].(string)
	text = fmt.Sprintf("%s: %v", level, entry["msg"])
	if e, ok := entry["error"]; ok {
		text += fmt.Sprintf(": %v", e)
	}
	for _, key := range []string{"path", "alarm", "remote-peer-id", "remote-peer-urls", "took"} {
		if v, ok := entry[key]; ok {
			text += fmt.Sprintf(" (%s %v)", key, v)
		}
	}
	return text, level != "info" && level != "debug" && !strings.Contains(text, "http and grpc server on single port")
}
