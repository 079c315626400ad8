package postgres

import (
	"embed"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Setting is a configuration parameter as a server of one major version
// describes it in pg_settings.
type Setting struct {
	Name    string
	Type    string // bool, integer, real, string, enum
	Context string // postmaster, sighup, superuser, user, internal, backend, superuser-backend
	Unit    string // of a bare number: "8kB", "ms", ...
	Min     string
	Max     string
	Enum    []string
}

// settingsFiles are dumps of pg_settings, one for each major version:
// name, vartype, context, unit, min_val, max_val, enumvals.
//
//go:embed settings/*.tsv
var settingsFiles embed.FS

var catalogs = sync.OnceValue(func() map[int]map[string]Setting {
	all := map[int]map[string]Setting{}
	entries, err := settingsFiles.ReadDir("settings")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		major, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".tsv"))
		if err != nil {
			panic(err)
		}
		b, err := settingsFiles.ReadFile("settings/" + e.Name())
		if err != nil {
			panic(err)
		}
		catalog := map[string]Setting{}
		for line := range strings.Lines(string(b)) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			s := Setting{Name: f[0], Type: f[1], Context: f[2], Unit: f[3], Min: f[4], Max: f[5]}
			if f[6] != "" {
				s.Enum = strings.Split(f[6], ",")
			}
			catalog[strings.ToLower(s.Name)] = s
		}
		all[major] = catalog
	}
	return all
})

// Lookup finds a parameter. Major 0 means that the version is not known: any
// version's description will do, the newest first. Known is false if there is
// no description of that version at all.
func Lookup(major int, name string) (s Setting, found, known bool) {
	all := catalogs()
	name = strings.ToLower(name)
	if catalog, ok := all[major]; ok {
		s, found = catalog[name]
		return s, found, true
	}
	majors := make([]int, 0, len(all))
	for m := range all {
		majors = append(majors, m)
	}
	slices.Sort(majors)
	slices.Reverse(majors)
	for _, m := range majors {
		if s, ok := all[m][name]; ok {
			return s, true, major == 0
		}
	}
	return Setting{}, false, major == 0
}

// NeedsRestart reports whether a change takes effect only when the server
// starts. What is not known (an extension's parameter) is taken for reloadable;
// the server itself flags it if that is wrong.
func NeedsRestart(name string) bool {
	s, ok, _ := Lookup(0, name)
	return ok && s.Context == "postmaster"
}

// CheckSetting says what is wrong with a value for a parameter, as far as it
// can be known without asking a server.
func CheckSetting(major int, name, value string) error {
	if strings.ContainsAny(value, "\n\x00") {
		return fmt.Errorf("%s must not contain line breaks", name)
	}
	s, found, known := Lookup(major, name)
	switch {
	case !found && strings.Contains(name, "."):
		return nil // an extension's
	case !found && !known:
		return nil
	case !found:
		if major == 0 {
			return fmt.Errorf("PostgreSQL has no parameter %q", name)
		}
		return fmt.Errorf("PostgreSQL %d has no parameter %q", major, name)
	case s.Context == "internal":
		return fmt.Errorf("%s cannot be set; it only shows how the server was built or initialised", s.Name)
	}
	return s.check(value)
}

func (s Setting) check(value string) error {
	switch s.Type {
	case "bool":
		if _, ok := parseBool(value); !ok {
			return fmt.Errorf("%s is %q; it must be on or off", s.Name, value)
		}
	case "enum":
		if _, ok := parseBool(value); ok && (slices.Contains(s.Enum, "on") || slices.Contains(s.Enum, "off")) {
			return nil
		}
		// Some enums accept spellings that pg_settings hides, such as
		// archive for wal_level; what is listed is what can be recommended.
		if !slices.ContainsFunc(s.Enum, func(e string) bool { return strings.EqualFold(e, value) }) {
			return fmt.Errorf("%s is %q; it must be one of %s", s.Name, value, strings.Join(s.Enum, ", "))
		}
	case "integer", "real":
		n, err := s.number(value)
		if err != nil {
			return err
		}
		low, errLow := strconv.ParseFloat(s.Min, 64)
		high, errHigh := strconv.ParseFloat(s.Max, 64)
		if errLow == nil && n < low || errHigh == nil && n > high {
			return fmt.Errorf("%s is %s; it must be between %s and %s%s", s.Name, value, s.Min, s.Max, s.inUnit())
		}
	}
	return nil
}

func (s Setting) inUnit() string {
	if s.Unit == "" {
		return ""
	}
	return " (in units of " + s.Unit + ")"
}

var memoryUnits = map[string]float64{"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

var timeUnits = map[string]float64{"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}

// number reads a value in the parameter's own unit, as the server would: "1GB"
// for a parameter in units of 8kB is 131072.
func (s Setting) number(value string) (float64, error) {
	v := strings.TrimSpace(value)
	i := strings.LastIndexAny(v, "0123456789.") + 1
	digits, unit := v[:i], strings.TrimSpace(v[i:])
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		var hex int64
		if hex, err = strconv.ParseInt(digits, 0, 64); err != nil {
			return 0, fmt.Errorf("%s is %q; it must be a number%s", s.Name, value, s.inUnit())
		}
		n = float64(hex)
	}
	if unit != "" {
		units := timeUnits
		if _, ok := memoryUnits[s.Unit]; ok {
			units = memoryUnits
		}
		from, ok1 := units[unit]
		to, ok2 := units[s.Unit]
		if !ok1 || !ok2 || unit == "8kB" {
			if s.Unit == "" {
				return 0, fmt.Errorf("%s is %q; it is a number without a unit", s.Name, value)
			}
			var valid []string
			for u := range units {
				if u != "8kB" {
					valid = append(valid, u)
				}
			}
			slices.SortFunc(valid, func(a, b string) int { return int(math.Copysign(1, units[a]-units[b])) })
			return 0, fmt.Errorf("%s is %q; its unit must be one of %s", s.Name, value, strings.Join(valid, ", "))
		}
		n = n * from / to
	}
	if s.Type == "integer" {
		n = math.RoundToEven(n)
	}
	return n, nil
}

// SettingTime reads the value of a parameter that is a time, as the server would, and
// reports whether it is one.
func SettingTime(name, value string) (time.Duration, bool) {
	s, found, _ := Lookup(0, name)
	unit, isTime := timeUnits[s.Unit]
	if !found || !isTime {
		return 0, false
	}
	n, err := s.number(value)
	return time.Duration(n * unit * float64(time.Second)), err == nil
}

// SameSetting reports whether two values mean the same to the server.
func SameSetting(name, a, b string) bool {
	if a == b {
		return true
	}
	s, found, _ := Lookup(0, name)
	if !found {
		return false
	}
	switch s.Type {
	case "bool":
		x, ok1 := parseBool(a)
		y, ok2 := parseBool(b)
		return ok1 && ok2 && x == y
	case "enum":
		if strings.EqualFold(a, b) {
			return true
		}
		x, ok1 := parseBool(a)
		y, ok2 := parseBool(b)
		return ok1 && ok2 && x == y
	case "integer", "real":
		x, err1 := s.number(a)
		y, err2 := s.number(b)
		return err1 == nil && err2 == nil && x == y
	}
	return false
}

// parseBool reads a boolean as the server does: any unambiguous beginning.
func parseBool(v string) (value, ok bool) {
	v = strings.ToLower(strings.TrimSpace(v))
	if v == "" {
		return false, false
	}
	switch {
	case v == "1" || v == "on" || strings.HasPrefix("true", v) || strings.HasPrefix("yes", v):
		return true, true
	case v == "0" || v == "of" || v == "off" || strings.HasPrefix("false", v) || strings.HasPrefix("no", v):
		return false, true
	}
	return false, false
}

// AtLeast reports whether a numeric parameter's value is at least low, given in
// a unit ("" is the parameter's own).
func AtLeast(name, value string, low int64, unit string) bool {
	s, found, _ := Lookup(0, name)
	if !found {
		return true
	}
	n, err := s.number(value)
	if err != nil {
		return false
	}
	limit := float64(low)
	if unit != "" {
		if limit, err = s.number(fmt.Sprintf("%d%s", low, unit)); err != nil {
			return false
		}
	}
	return n >= limit
}
