package etcd

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Credentials are the passwords of the users with which the cluster itself is
// managed. They are kept on the members' hosts, readable by root only.
type Credentials struct {
	// Root is the password of etcd's own root user, which must exist for
	// authentication to be on. We do not use it; it is for emergencies.
	Root string `json:"root"`
	// Provider is the password of the user ProviderUser.
	Provider string `json:"pgha"`
}

// ProviderUser is the user with which the provider works.
const ProviderUser = "pgha"

// NewPassword makes a password of 192 random bits. It has letters and digits
// only, so that no file format needs to quote it.
func NewPassword() string {
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		panic(err) // documented never to happen
	}
	return hex.EncodeToString(b)
}

// NewUID makes an identifier for a cluster.
func NewUID() string { return NewPassword()[:16] }

func (c Credentials) file(cluster string) remote.File {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return remote.File{Path: credentialsPath(cluster), Content: append(b, '\n'), Mode: "0600", Sensitive: true}
}

// readCredentials returns the credentials that a probe found, or nil.
func readCredentials(f *remote.Facts, cluster string) *Credentials {
	p := f.Path(credentialsPath(cluster))
	var c Credentials
	if p.Type != remote.Regular || json.Unmarshal(p.Content, &c) != nil || c.Root == "" || c.Provider == "" {
		return nil
	}
	return &c
}
