package fakehost

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// FileType is what is at a path, in the probe's words.
type FileType string

// What can be at a path.
const (
	Regular FileType = "file"
	Dir     FileType = "dir"
	Link    FileType = "link"
	Device  FileType = "other"
)

// File is a file, a directory or a link.
type File struct {
	Type         FileType // Regular if empty
	Mode         string   // octal without leading zeros; "644", or "755" of a directory, if empty
	Owner, Group string   // "root" if empty
	Content      []byte
	Target       string // of a link
	Mount        bool   // a filesystem of its own begins here
	Modified     int64  // seconds since 1970, set by Put
}

// Files is a host's file tree.
type Files struct {
	nodes map[string]*File
	// wrote is told of every path that changes.
	wrote func(path string)
}

func newFiles(wrote func(string)) *Files {
	return &Files{nodes: map[string]*File{"/": {Type: Dir, Mode: "755", Owner: "root", Group: "root"}}, wrote: wrote}
}

// Put puts a file, directory or link in place. Missing parents are made, owned
// by root.
func (f *Files) Put(p string, file File) {
	if file.Type == "" {
		file.Type = Regular
	}
	if file.Mode = strings.TrimLeft(file.Mode, "0"); file.Mode == "" {
		file.Mode = map[FileType]string{Regular: "644", Dir: "755", Link: "777"}[file.Type]
	}
	if file.Owner == "" {
		file.Owner = "root"
	}
	if file.Group == "" {
		file.Group = "root"
	}
	file.Modified = time.Now().Unix()
	p = path.Clean(p)
	for dir := path.Dir(p); f.nodes[dir] == nil; dir = path.Dir(dir) {
		f.nodes[dir] = &File{Type: Dir, Mode: "755", Owner: "root", Group: "root"}
	}
	f.nodes[p] = &file
	f.wrote(p)
}

// Text puts a plain file of root's in place.
func (f *Files) Text(p, content string) { f.Put(p, File{Content: []byte(content)}) }

// Get returns what is at a path, nil if nothing is.
func (f *Files) Get(p string) *File { return f.nodes[path.Clean(p)] }

// Read returns a regular file's content, nil if there is none.
func (f *Files) Read(p string) []byte {
	if n := f.Get(p); n != nil && n.Type == Regular {
		return n.Content
	}
	return nil
}

// Remove removes what is at a path and everything below it.
func (f *Files) Remove(p string) {
	p = path.Clean(p)
	for _, below := range f.Below(p) {
		delete(f.nodes, below)
	}
	if f.nodes[p] != nil {
		delete(f.nodes, p)
		f.wrote(p)
	}
}

// Move moves a tree.
func (f *Files) Move(from, to string) {
	from, to = path.Clean(from), path.Clean(to)
	for _, p := range append(f.Below(from), from) {
		if n := f.nodes[p]; n != nil {
			f.Put(to+strings.TrimPrefix(p, from), *n)
		}
	}
	f.Remove(from)
}

// Below returns all paths below a directory, in order.
func (f *Files) Below(dir string) []string {
	prefix := strings.TrimSuffix(path.Clean(dir), "/") + "/"
	var list []string
	for p := range f.nodes {
		if strings.HasPrefix(p, prefix) && p != "/" {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// List returns the names in a directory, in order.
func (f *Files) List(dir string) []string {
	names := map[string]bool{}
	prefix := strings.TrimSuffix(path.Clean(dir), "/") + "/"
	for _, p := range f.Below(dir) {
		name, _, _ := strings.Cut(strings.TrimPrefix(p, prefix), "/")
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Paths returns all paths that hold something, in order.
func (f *Files) Paths() []string { return slices.Sorted(maps.Keys(f.nodes)) }

// readableBy reports whether a service that runs as an account of the same-named
// group may read the file.
func (f *File) readableBy(account string) bool {
	if f == nil || f.Type != Regular || len(f.Mode) < 3 {
		return false
	}
	owner, group, other := f.Mode[len(f.Mode)-3], f.Mode[len(f.Mode)-2], f.Mode[len(f.Mode)-1]
	reads := func(digit byte) bool { return (digit-'0')&4 != 0 }
	return f.Owner == account && reads(owner) || f.Group == account && reads(group) || reads(other)
}

// ReadAs returns a file's content as an account sees it, nil if it may not.
func (f *Files) ReadAs(account, p string) []byte {
	if n := f.Get(p); n.readableBy(account) {
		return n.Content
	}
	return nil
}
