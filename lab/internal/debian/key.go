package debian

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// recipe is raised when the building itself changes in a way that its inputs
// (lists and scripts) don't show.
const recipe = 1

//go:embed bare.sh
var bareScript string

//go:embed warm.sh
var warmScript string

// key returns a short hash of whatever something is made from. What was built
// under the same key is used again.
func key(inputs ...any) string {
	b, err := json.Marshal(append([]any{recipe, runtime.GOARCH}, inputs...))
	if err != nil {
		panic(err) // only plain values are passed
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

func (r Release) bareKey() string { return key("bare", r.Name, r.Base, bareScript) }

func (r Release) poolKey(extra []Extra) string {
	return key("pool", r.Suites, r.Base, r.Warm, r.Pool, r.Newer, r.Superseded, extra)
}

// warmKey depends on the versions that are installed, not on the pool they
// come from: a package more in the pool leaves the image as it is.
func (r Release) warmKey(packages []string) string {
	return key("warm", r.bareKey(), packages, warmScript)
}

// Extra is a package that the mirror doesn't have.
type Extra struct {
	Name   string // of the file
	Sha256 string
	path   string
}

// FindExtras returns the packages in a folder that are for a release: those in
// the folder itself and those in its subfolder of the release's name. There
// need be no such folder.
func FindExtras(folder, release string) ([]Extra, error) {
	if folder == "" {
		return nil, nil
	}
	var extras []Extra
	for _, dir := range []string{folder, filepath.Join(folder, release)} {
		files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			sum, err := hashFile(f)
			if err != nil {
				return nil, fmt.Errorf("read an extra package: %w", err)
			}
			extras = append(extras, Extra{Name: filepath.Base(f), Sha256: sum, path: f})
		}
	}
	slices.SortFunc(extras, func(a, b Extra) int { return strings.Compare(a.Name+a.Sha256, b.Name+b.Sha256) })
	return extras, nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
