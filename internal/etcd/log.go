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
// complains of nothing, its last lines. What a process said that has been restarted
// since is left out, if the one after it complains.
func telling(lines []string) []string {
	if picked, complains := pick(sinceStart(lines)); complains {
		return picked
	}
	picked, _ := pick(lines)
	return picked
}

// sinceStart are the lines since etcd was last started, or since the time before if
// it has only just been.
func sinceStart(lines []string) []string {
	for i, l := range slices.Backward(lines) {
		if !strings.HasPrefix(l, "Starting "+Unit) {
			continue
		}
		if _, complains := pick(lines[i:]); complains {
			return lines[i:]
		}
	}
	return nil
}

func pick(lines []string) (picked []string, complains bool) {
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
	picked = complaints
	if len(picked) == 0 {
		picked = all
	}
	return picked[max(0, len(picked)-12):], len(complaints) > 0
}

// systemds begin what systemd says of a unit.
var systemds = []string{"Starting ", "Started ", "Stopping ", "Stopped ", Unit + ": "}

// complaint reports whether a line that is no JSON is one. etcd 3.4 marks each line
// with a letter; what has no mark is no line of etcd's log, but what a program said
// that ended before it had one.
func complaint(line string) bool {
	if _, rest, old := strings.Cut(line, " | "); old {
		mark := line[len(line)-len(rest)-4]
		return mark != 'I' && mark != 'D' && mark != 'N'
	}
	if slices.ContainsFunc(systemds, func(p string) bool { return strings.HasPrefix(line, p) }) {
		return strings.Contains(line, "Failed with result")
	}
	return line != ""
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
		return line, complaint(line)
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
