package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// aptConfig writes an apt configuration that has nothing to do with this
// machine's packages, and returns the environment that makes apt use it. What
// is installed already is read from status.
func (w work) aptConfig(status string) ([]string, error) {
	root := filepath.Join(w.scratch(), "apt")
	for _, d := range []string{"lists/partial", "archives/partial", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	keys, err := keyring()
	if err != nil {
		return nil, err
	}
	conf := append([]string{
		fmt.Sprintf("Dir::Etc %q;", filepath.Join(root, "etc")),
		`Dir::Etc::main "none";`,
		`Dir::Etc::parts "none.d";`,
		fmt.Sprintf("Dir::State::lists %q;", filepath.Join(root, "lists")),
		fmt.Sprintf("Dir::State::status %q;", status),
		fmt.Sprintf("Dir::Cache %q;", root),
		`Acquire::Check-Valid-Until "false";`,
		`Acquire::Languages "none";`,
		`APT::Install-Recommends "false";`,
		`APT::Sandbox::User "root";`,
	}, w.proxies...)
	sources := w.Release.sources(w.mirror, keys)
	if _, err := os.Stat(filepath.Join(w.superseded(), packagesFile)); err == nil {
		sources += fmt.Sprintf("deb [trusted=yes] file:%s ./\n", w.superseded())
	}
	files := map[string]string{
		"etc/sources.list":       sources,
		"etc/preferences":        w.Release.preferences(),
		"etc/preferences.newest": w.Release.foreign(),
		"apt.conf":               strings.Join(conf, "\n") + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return []string{"APT_CONFIG=" + filepath.Join(root, "apt.conf")}, nil
}

// sources returns the release's suites as apt's sources.list has them.
func (r Release) sources(m Mirror, keys string) string {
	var b strings.Builder
	for _, s := range r.Suites {
		uri := m.Main
		if s.Security {
			uri = m.Security
		}
		fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", keys, uri, s.Name)
	}
	return b.String()
}

// preferences makes apt take superseded packages before those that have replaced
// them.
func (r Release) preferences() string {
	var b strings.Builder
	for _, s := range r.Superseded {
		fmt.Fprintf(&b, "Package: %s\nPin: version %s\nPin-Priority: 999\n\n", s.Name, s.Version)
	}
	return b.String() + r.foreign()
}

// foreign makes apt take from another release only what it is told to.
func (r Release) foreign() string {
	var b strings.Builder
	for _, s := range r.Suites {
		if s.Foreign {
			fmt.Fprintf(&b, "Package: *\nPin: release n=%s\nPin-Priority: 100\n\n", s.Name)
		}
	}
	return b.String()
}

// superseded is the folder for packages that the mirror's lists no longer have.
func (w work) superseded() string { return filepath.Join(w.scratch(), "superseded") }

// fetchSuperseded downloads them. The lab does without those that the mirror no
// longer has at all.
func (w work) fetchSuperseded(ctx context.Context) error {
	if len(w.Release.Superseded) == 0 || runtime.GOARCH != "amd64" {
		return nil
	}
	if err := os.MkdirAll(w.superseded(), 0o755); err != nil {
		return err
	}
	env, err := w.aptConfig("/dev/null")
	if err != nil {
		return err
	}
	for _, s := range w.Release.Superseded {
		file := fmt.Sprintf("%s_%s_amd64.deb", s.Name, s.Version)
		uri := strings.TrimSuffix(w.mirror.Main, "/") + "/" + s.Folder + "/" + file
		if _, err := w.runIn(ctx, env, "/usr/lib/apt/apt-helper", "download-file", uri, filepath.Join(w.superseded(), file), "SHA256:"+s.SHA256); err != nil {
			w.Log("the pool will lack %s %s, which the mirror no longer has: %s", s.Name, s.Version, reason(err))
		}
	}
	index, err := sys.Run(ctx, "sh", "-ec", `cd "$1" && apt-ftparchive packages .`, "sh", w.superseded())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.superseded(), packagesFile), []byte(index), 0o644)
}

// aptLists downloads the lists of packages.
func (w work) aptLists(ctx context.Context) error {
	if err := w.fetchSuperseded(ctx); err != nil {
		return err
	}
	env, err := w.aptConfig("/dev/null")
	if err != nil {
		return err
	}
	if _, err := w.runIn(ctx, env, "apt-get", "-q", "update"); err != nil {
		return hint(fmt.Errorf("download the lists of packages: %w", err))
	}
	return nil
}

// What a pool holds besides packages.
const (
	packagesFile = "Packages"
	warmFile     = "warm.list" // the warm image's packages, with versions
)

// pool downloads packages, for a host of the bare image, and makes the pool of
// them.
func (w work) pool(ctx context.Context, built Built) error {
	half := built.Pool + unfinished
	if err := os.MkdirAll(half, 0o755); err != nil {
		return err
	}
	env, err := w.aptConfig(filepath.Join(built.Bare, "var/lib/dpkg/status"))
	if err != nil {
		return err
	}
	apt := func(args ...string) (string, error) {
		return w.runIn(ctx, env, append([]string{"apt-get", "-y", "-q"}, args...)...)
	}
	download := func(args ...string) error {
		out, err := apt(append([]string{"install", "--download-only"}, args...)...)
		if err != nil {
			// apt explains itself on its standard output.
			err = fmt.Errorf("%w\n%s", err, strings.Join(unmet(out), "\n"))
		}
		return hint(err)
	}

	all := append(slices.Clone(w.Release.Warm), w.Release.Pool...)
	own := []string{"-t", w.Release.Name}
	if err := download(append(own, all...)...); err != nil {
		return err
	}
	newest := append([]string{"-o", "Dir::Etc::preferences=" + filepath.Join(w.scratch(), "apt/etc/preferences.newest")}, all...)
	if err := download(newest...); err != nil { // the newest of the release, with its updates
		return err
	}
	for _, packages := range w.Release.Newer {
		if err := download(packages...); err != nil {
			w.Log("the pool will lack %s, which cannot be had for %s: %s", strings.Join(packages, " "), w.Release.Name, reason(err))
		}
	}
	for _, x := range w.Extras {
		if _, err := w.run(ctx, "cp", "--", x.path, half); err != nil {
			return err
		}
		if err := download(x.path); err != nil {
			w.Log("what the extra package %s depends on cannot be had for %s: %s", x.Name, w.Release.Name, reason(err))
		}
	}
	simulated, err := apt(slices.Concat([]string{"-s", "install"}, own, w.Release.Warm)...)
	if err != nil {
		return err
	}
	warm := strings.Join(parseInstalls(simulated), "\n") + "\n"

	debs, err := filepath.Glob(filepath.Join(w.scratch(), "apt/archives/*.deb"))
	if err != nil {
		return err
	}
	// apt does not copy what it finds in a folder.
	older, err := filepath.Glob(filepath.Join(w.superseded(), "*.deb"))
	if err != nil {
		return err
	}
	debs = append(debs, older...)
	if _, err := w.run(ctx, slices.Concat([]string{"mv", "-t", half, "--"}, debs)...); err != nil {
		return err
	}
	index, err := sys.Run(ctx, "sh", "-ec", `cd "$1" && apt-ftparchive packages .`, "sh", half)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{packagesFile: index, warmFile: warm} {
		if err := os.WriteFile(filepath.Join(half, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	// apt in the hosts reads as user _apt.
	if _, err := w.run(ctx, "chmod", "-R", "a+rX", half); err != nil {
		return err
	}
	if _, err := w.run(ctx, "sync", "-f", half); err != nil {
		return err
	}
	versions := parseVersions(index)
	for _, p := range w.Release.Pairs {
		if len(versions[p]) < 2 {
			w.Log("the pool has only one version of %s (%s): its upgrade cannot be tested", p, strings.Join(versions[p], ", "))
		}
	}
	return os.Rename(half, built.Pool)
}

// reason returns the lines of apt's errors that say why it refused.
func reason(err error) string {
	why := unmet(err.Error())
	for line := range strings.Lines(err.Error()) {
		if strings.HasPrefix(line, "E:") {
			why = append(why, strings.TrimSpace(line))
		}
	}
	if why == nil {
		return err.Error()
	}
	return strings.Join(why, "; ")
}

// unmet returns the lines of apt's output that name what is lacking.
func unmet(out string) (lines []string) {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "Depends:") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// install is how "apt-get -s install" names a package:
//
//	Inst libpq5 (17.11-0+deb13u1 Debian:13.6/stable [amd64])
//	Inst libc6 [2.41-12] (2.41-12+deb13u4 Debian:13.6/stable [amd64])
var install = regexp.MustCompile(`(?m)^Inst (\S+) (?:\[\S*\] )?\((\S+) `)

// parseInstalls returns the packages of a simulated installation, each as
// name=version.
func parseInstalls(out string) []string {
	var list []string
	for _, m := range install.FindAllStringSubmatch(out, -1) {
		list = append(list, m[1]+"="+m[2])
	}
	slices.Sort(list)
	return list
}

// warmPackages returns the packages of the warm image that a pool was made
// for, each as name=version.
func warmPackages(pool string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(pool, warmFile))
	if err != nil {
		return nil, err
	}
	list := strings.Fields(string(b))
	if len(list) == 0 {
		return nil, errors.New("the pool lists no packages for a warm image; remove it, so that it is made anew: " + pool)
	}
	return list, nil
}

// Versions returns what a pool holds: by package, the versions from the oldest
// to the newest.
func Versions(pool string) (map[string][]string, error) {
	b, err := os.ReadFile(filepath.Join(pool, packagesFile))
	if err != nil {
		return nil, fmt.Errorf("read the pool of packages: %w", err)
	}
	return parseVersions(string(b)), nil
}

func parseVersions(index string) map[string][]string {
	versions := map[string][]string{}
	name := ""
	for line := range strings.Lines(index) {
		line = strings.TrimSuffix(line, "\n")
		if v, ok := strings.CutPrefix(line, "Package: "); ok {
			name = v
		} else if v, ok := strings.CutPrefix(line, "Version: "); ok && !slices.Contains(versions[name], v) {
			versions[name] = append(versions[name], v)
		}
	}
	for _, v := range versions {
		slices.SortFunc(v, debver.Compare)
	}
	return versions
}

// ListFile is where apt in a host keeps its copy of the pool's index, relative
// to the root; Index is what belongs there.
func ListFile(release string) string {
	return "var/lib/apt/lists/_pool_" + release + "_._Packages"
}

// Index returns a pool's index.
func Index(pool string) ([]byte, error) { return os.ReadFile(filepath.Join(pool, packagesFile)) }
