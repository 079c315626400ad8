// Package patroni builds and changes Patroni clusters: the dynamic
// configuration in the DCS, the nodes' own files, the REST API, and the plans
// from what is found to what is wanted.
package patroni

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// Document is a dynamic configuration as GET /config returns it (Patroni
// documentation, "Dynamic Configuration Settings").
type Document map[string]any

// ParseDocument reads a /config value.
func ParseDocument(text []byte) (Document, error) {
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	var d Document
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("the dynamic configuration is not a JSON object: %w", err)
	}
	return d, nil
}

// JSON renders the document, with sorted keys.
func (d Document) JSON() []byte {
	b, err := json.Marshal(map[string]any(d))
	if err != nil {
		panic(err) // it holds what JSON or this package made
	}
	return b
}

// Settings are parts of a document by their path. A path is a top-level key,
// "postgresql/KEY", "postgresql/parameters/NAME" or "slots/NAME": these are the
// units that somebody owns. A value is a string, a bool, an int64, a list or
// a map; lists and what is below those paths are changed as a whole, as
// Patroni's own merge does with lists.
type Settings map[string]any

// Paths returns the paths in order.
func (s Settings) Paths() []string { return slices.Sorted(maps.Keys(s)) }

// parameters is where PostgreSQL's parameters are.
const parameters = "postgresql/parameters/"

// Parameter is the path of a PostgreSQL parameter.
func Parameter(name string) string { return parameters + name }

// IsParameter returns the name of the PostgreSQL parameter that a path is of.
func IsParameter(path string) (string, bool) { return strings.CutPrefix(path, parameters) }

// nested are the keys whose children are owned one by one.
var nested = map[string]bool{"postgresql": true, "postgresql/parameters": true, "slots": true}

// Flatten takes a document apart.
func (d Document) Flatten() Settings {
	s := Settings{}
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for k, v := range m {
			path := prefix + k
			if child, ok := v.(map[string]any); ok && nested[path] {
				walk(path+"/", child)
				continue
			}
			s[path] = v
		}
	}
	walk("", d)
	return s
}

// Document puts settings together.
func (s Settings) Document() Document {
	d := map[string]any{}
	for path, v := range s {
		put(d, path, v)
	}
	return d
}

func put(d map[string]any, path string, v any) {
	for {
		head, rest, deeper := strings.Cut(path, "/")
		if !deeper {
			d[path] = v
			return
		}
		// A parameter's or slot's name may have anything in it but is
		// always the last part.
		child, ok := d[head].(map[string]any)
		if !ok {
			child = map[string]any{}
			d[head] = child
		}
		d, path = child, rest
	}
}

// Patch is the body of one PATCH /config that turns what is live into what is
// wanted without touching what is not ours: wanted paths are set where they
// differ, owned ones that are no longer wanted are removed with null. Changed
// lists the paths; if it is empty there is nothing to send, and Patroni would
// reject an empty patch.
func Patch(live Document, wanted Settings, owned []string) (patch Document, changed []string) {
	flat := live.Flatten()
	patch = map[string]any{}
	for _, path := range wanted.Paths() {
		if have, ok := flat[path]; ok && Same(path, have, wanted[path]) || !ok && IsDefault(path, wanted[path]) && live != nil {
			continue
		}
		put(patch, path, replacing(flat[path], wanted[path]))
		changed = append(changed, path)
	}
	for _, path := range owned {
		if _, still := wanted[path]; still {
			continue
		}
		if _, there := flat[path]; there {
			put(patch, path, nil)
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	return patch, slices.Compact(changed)
}

// defaults are what Patroni takes where the configuration is silent (Patroni's
// source, config.py and global_config.py).
var defaults = Settings{
	"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "check_timeline": false, "maximum_lag_on_failover": 1048576,
	"maximum_lag_on_syncnode": -1, "max_timelines_history": 0, "primary_start_timeout": 300, "primary_stop_timeout": 0,
	"synchronous_mode": false, "synchronous_mode_strict": false, "synchronous_node_count": 1, "failsafe_mode": false, "pause": false,
	"postgresql/use_slots": true, "postgresql/use_pg_rewind": false,
	"postgresql/remove_data_directory_on_rewind_failure": false, "postgresql/remove_data_directory_on_diverged_timelines": false,
}

// IsDefault reports whether a value is what Patroni takes anyway where the
// configuration does not have the path.
func IsDefault(path string, v any) bool {
	d, ok := defaults[path]
	return ok && Same(path, d, v)
}

// replacing is what has to be sent to turn one value into another: Patroni
// merges maps, so keys that are no longer wanted are set to null.
func replacing(have, want any) any {
	to, ok := canonical(want).(map[string]any)
	if !ok {
		return want
	}
	from, ok := have.(map[string]any)
	if !ok {
		return want
	}
	out := map[string]any{}
	switch w := want.(type) {
	case map[string]any:
		maps.Copy(out, w)
	case map[string]string:
		for k, v := range w {
			out[k] = v
		}
	}
	for k := range from {
		if _, still := to[k]; !still {
			out[k] = nil
		}
	}
	return out
}

// Foreign lists the live paths that are not ours: keys and slots that somebody
// else made, which are left alone.
func Foreign(live Document, owned []string) []string {
	var list []string
	for path := range live.Flatten() {
		if !slices.Contains(owned, path) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

// Same reports whether two values of a path mean the same. Patroni compares by
// their text, so a number and its text are one (utils.patch_config); for
// PostgreSQL's parameters, "1GB" and "1024MB" are, too.
func Same(path string, a, b any) bool {
	if name, ok := IsParameter(path); ok {
		return postgres.SameSetting(name, Text(a), Text(b))
	}
	return reflect.DeepEqual(canonical(a), canonical(b))
}

// canonical brings values of different origins (JSON, Go) into one form.
func canonical(v any) any {
	switch v := v.(type) {
	case []string:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = e
		}
		return list
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = canonical(e)
		}
		return list
	case map[string]any:
		m := map[string]any{}
		for k, e := range v {
			m[k] = canonical(e)
		}
		return m
	case map[string]string:
		m := map[string]any{}
		for k, e := range v {
			m[k] = e
		}
		return m
	}
	return Text(v)
}

// Text is a scalar as text, booleans as on and off.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "on"
		}
		return "off"
	case json.Number:
		return v.String()
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// Int reads a number that may be written as text.
func Int(v any) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(Text(v)), 10, 64)
	return n, err == nil
}

// Bool reads a boolean in any of the spellings Patroni knows
// (utils.parse_bool).
func Bool(v any) (value, ok bool) {
	switch strings.ToLower(Text(v)) {
	case "on", "true", "yes", "1":
		return true, true
	case "off", "false", "no", "0":
		return false, true
	}
	return false, false
}
