package patroni

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// withSecrets returns a node's configuration file with other passwords in it,
// and everything else as it is: whoever changes the passwords of a cluster does
// not know what else its nodes' files are to say.
func (c Cluster) withSecrets(content []byte, s Secrets) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil || len(doc.Content) != 1 {
		// The parser's own message quotes the file.
		return nil, errors.New("it cannot be read as YAML")
	}
	values := map[string]string{
		"restapi.authentication.password":                s.API,
		"postgresql.authentication.superuser.password":   s.Superuser,
		"postgresql.authentication.replication.password": s.Replication,
		"postgresql.authentication.rewind.password":      s.Rewind,
	}
	if c.Etcd.Auth || s.LogsIn {
		values["etcd3.username"], values["etcd3.password"] = s.etcdUser(c), s.Etcd
	}
	for _, path := range sortedKeys(values) {
		node := doc.Content[0]
		for part := range strings.SplitSeq(path, ".") {
			if node = child(node, part); node == nil {
				return nil, fmt.Errorf("it has no %s", path)
			}
		}
		scalar, err := scalarOf(values[path])
		if err != nil {
			return nil, err
		}
		node.Kind, node.Tag, node.Value, node.Style = scalar.Kind, scalar.Tag, scalar.Value, scalar.Style
	}
	return yaml.Marshal(&doc)
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalarOf is a text as it is written when a whole file is: quoted where Patroni's
// parser would take it for a number, for example.
func scalarOf(text string) (*yaml.Node, error) {
	b, err := yaml.Marshal(text)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, errors.New("a password cannot be written as YAML")
	}
	return doc.Content[0], nil
}

// passFile returns a password file (PostgreSQL documentation, "The Password
// File") with other passwords for the given users. Patroni writes it when a
// replica begins to follow somebody, and before 4.1.1 not when the password
// changes while the replica streams: it would be refused once it has to connect
// again.
func passFile(content []byte, passwords map[string]string) []byte {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	unescape := strings.NewReplacer(`\\`, `\`, `\:`, `:`)
	var out strings.Builder
	for line := range strings.Lines(string(content)) {
		fields := fieldsOf(strings.TrimSuffix(line, "\n"))
		if len(fields) == 5 && !strings.HasPrefix(line, "#") {
			if password, ours := passwords[unescape.Replace(fields[3])]; ours {
				fields[4] = escape.Replace(password)
				line = strings.Join(fields, ":") + line[len(strings.TrimSuffix(line, "\n")):]
			}
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}

// fieldsOf splits a line at colons that no backslash comes before.
func fieldsOf(line string) []string {
	var fields []string
	start := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case ':':
			fields = append(fields, line[start:i])
			start = i + 1
		}
	}
	return append(fields, line[start:])
}
