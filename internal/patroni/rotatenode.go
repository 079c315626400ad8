package patroni

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// secretFiles reads files that hold passwords; nil is one that is not there.
func (d *Doer) secretFiles(ctx context.Context, n Node, paths ...string) ([][]byte, error) {
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "patroni.files", Script: remote.Script(scripts, "scripts/secret_files.sh"), Args: paths, Sensitive: true,
	})
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(res.Stdout), "\n")
	files := make([][]byte, len(paths))
	for i := range paths {
		if i < len(lines) && lines[i] != "" {
			if files[i], err = base64.StdEncoding.DecodeString(lines[i]); err != nil {
				return nil, fmt.Errorf("host %s: %s did not arrive whole", n.Target.Name, paths[i])
			}
		}
	}
	return files, nil
}

// setRoles gives roles their passwords, on whoever leads now. What is right
// already is left alone, so that nothing is written to the log that replicas
// follow.
func (d *Doer) setRoles(ctx context.Context, c Cluster, passwords map[string]string) error {
	if len(passwords) == 0 || d.Known.Standby() != nil { // a standby has its roles from its primary
		return nil
	}
	n, err := d.leading(ctx, c)
	if err != nil {
		return err
	}
	have, err := d.verifiers(ctx, n, sortedKeys(passwords))
	if err != nil {
		return err
	}
	var statements []string
	for _, role := range sortedKeys(passwords) {
		password := passwords[role]
		verifier, known := have[role]
		if !known {
			return &problem.Error{
				Host: n.Target.Name, Cause: fmt.Errorf("PostgreSQL has no role %q", role), Left: "the passwords of all roles.",
				Do: "make the role again (for replication: create role NAME login replication), then apply again.",
			}
		}
		if postgres.ScramMatches(password, verifier) {
			continue
		}
		if made, ok := postgres.ScramVerifier(password); ok {
			password = made
		}
		statements = append(statements, "alter role "+quoteIdentifier(role)+" password "+quoteLiteral(password)+";\n")
	}
	if password, changes := passwords[c.Users.Superuser]; changes && c.Citus != nil {
		between, err := d.betweenNodes(ctx, n, password)
		if err != nil {
			return err
		}
		statements = append(statements, between...)
	}
	if len(statements) == 0 {
		return nil
	}
	if c.Citus != nil { // each group's leader has its own statement: the coordinator's does not go to the others
		statements = slices.Insert(statements, 0, "set local citus.enable_alter_role_propagation = off;\n")
	}
	_, err = d.roles(ctx, n, "set password_encryption = 'scram-sha-256';\nbegin;\n"+strings.Join(statements, "")+"commit;\n")
	return err
}

// betweenNodes are the statements by which the nodes of a formation log in to each other as
// the superuser with a password, none if they do. Patroni has made the row with the database
// (citus.py, bootstrap), and leaves it at that.
func (d *Doer) betweenNodes(ctx context.Context, n Node, password string) ([]string, error) {
	user, info := quoteLiteral(n.Cluster.Users.Superuser), "password="+quoteConninfo(password)
	rows, err := d.roles(ctx, n, "select authinfo from pg_catalog.pg_dist_authinfo where nodeid = 0 and rolename = "+user+";\n")
	if err != nil || len(rows) == 1 && rows[0] == info {
		return nil, err
	}
	return []string{
		"delete from pg_catalog.pg_dist_authinfo where nodeid = 0 and rolename = " + user + ";\n",
		"insert into pg_catalog.pg_dist_authinfo values (0, " + user + ", " + quoteLiteral(info) + ");\n",
	}, nil
}

// quoteConninfo is a value in a connection string.
func quoteConninfo(s string) string {
	if s != "" && !strings.ContainsAny(s, " '\\=") {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// verifiers are what a node's server has of roles' passwords.
func (d *Doer) verifiers(ctx context.Context, n Node, names []string) (map[string]string, error) {
	var list []string
	for _, name := range names {
		list = append(list, quoteLiteral(name))
	}
	rows, err := d.roles(ctx, n, "select rolname, coalesce(rolpassword, '') from pg_authid where rolname in ("+strings.Join(list, ", ")+");\n")
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	for _, row := range rows {
		name, verifier, _ := strings.Cut(row, "\t")
		have[name] = verifier
	}
	return have, nil
}

// roles runs statements about roles on a node.
func (d *Doer) roles(ctx context.Context, n Node, statements string) ([]string, error) {
	database := "postgres"
	if n.Cluster.Citus != nil && !n.Cluster.Adopted() {
		database = n.Cluster.Citus.Database // where the nodes' logins are
	}
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.roles", User: account, Script: remote.Script(scripts, "scripts/psql.sh", "scripts/roles.sh"),
		Args: []string{strconv.Itoa(n.Cluster.PostgresPort), socketDir, database}, Stdin: []byte(statements), Sensitive: true,
	})
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(res.Stdout), "\n"), "\n"), nil
}

func quoteIdentifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// quoteLiteral is an SQL string, whatever standard_conforming_strings says.
func quoteLiteral(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// leading is the node that leads now, as itself says. In a failover it waits for the next
// one.
func (d *Doer) leading(ctx context.Context, c Cluster) (Node, error) {
	var n Node
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, d.Log, "the cluster "+c.Name()+" to have a primary", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		if len(k.Nodes) == 0 {
			return false, "", wait.Never(errors.New("it has no nodes any more"))
		}
		record, ok := k.Nodes[k.Leader]
		if !ok {
			return false, "the cluster has no leader", nil
		}
		n = Node{Cluster: c, Name: k.Leader, Address: record.Address, Target: record.Target, DataDir: record.DataDir}
		st, err := d.status(ctx, n)
		return err == nil && st.Primary(), n.Name + " is not a primary yet", err
	})
	return n, err
}

// takeSecrets has a node that runs go over to the new passwords. It waits until
// Patroni has: it reads its file at the beginning of its next turn, and from then
// on its REST API takes the new password, and only that.
func (d *Doer) takeSecrets(ctx context.Context, r rotating, was, next Secrets) error {
	n := r.n
	if err := d.writePassFile(ctx, n, next); err != nil {
		return err
	}
	var p remote.Probe
	p.Unit(Unit)
	if f, err := p.Run(ctx, d.host(n)); err != nil || !f.Unit(Unit).Running() {
		return err // it reads its file when it starts
	}
	since, err := d.now(ctx, n)
	if err != nil {
		return err
	}
	if err := remote.ReloadUnit(ctx, d.host(n), Unit); err != nil {
		return err
	}
	fresh, err := d.apiWith(n, next.API)
	if err != nil {
		return err
	}
	old, err := d.apiWith(n, was.API)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, d.turns(3)+30*time.Second)
	defer cancel()
	err = wait.Until(bounded, d.Log, "Patroni of "+n.Name+" to take the new passwords over", 400*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		// Removing a setting that nobody has changes nothing, and ends the pause
		// between two turns.
		err := fresh.PatchConfig(ctx, wakeUp)
		if unauthorized(err) {
			_ = old.PatchConfig(ctx, wakeUp)
			return false, "it still has the old ones", nil
		}
		if err != nil || was.API != next.API {
			return err == nil, "", err
		}
		lines, err := remote.Journal(ctx, d.host(n), Unit, 400, since.journal)
		return reloaded(lines), "it has not read its file again", err
	})
	if err != nil {
		lines, _ := remote.Journal(context.WithoutCancel(ctx), d.host(n), Unit, 60, since.journal)
		return &problem.Error{
			Host: n.Target.Name, Cause: err, Log: telling(lines), Left: "the old etcd user, and the note in etcd that the change is not finished.",
			Do: "see what Patroni says in the lines above, mend it, and apply again.",
		}
	}
	// As long as it had the old ones in mind it may have written them.
	if err := d.writePassFile(ctx, n, next); err != nil || !r.member {
		return err
	}
	return d.waitMember(ctx, n, since, nil)
}

// reloaded reports whether Patroni says that it has read its file again
// (Patroni, postgresql/config.py, reload_config).
func reloaded(lines []string) bool {
	for _, l := range lines {
		if strings.Contains(l, "Reloading PostgreSQL configuration") || strings.Contains(l, "nothing to reload") {
			return true
		}
	}
	return false
}

// wakeUp is a change that changes nothing (Patroni, api.py, do_PATCH_config).
var wakeUp = Document{"pgha_wake_up": nil}

// apiWith is a node's REST API with one password only.
func (d *Doer) apiWith(n Node, password string) (*API, error) {
	return NewAPI(d.host(n), APIConfig{Port: n.Cluster.APIPort, Authority: d.Known.Authority, User: n.Cluster.Users.API, Password: password})
}

// turns is how long so many turns of Patroni's loop take.
func (d *Doer) turns(n int) time.Duration {
	loop := int64(10)
	if v, ok := Int(d.Known.Config["loop_wait"]); ok {
		loop = v
	}
	return time.Duration(n) * time.Duration(loop) * time.Second
}

// writePassFile brings the passwords with which a replica comes to its leader up
// to date. Patroni's own lines are kept.
func (d *Doer) writePassFile(ctx context.Context, n Node, next Secrets) error {
	files, err := d.secretFiles(ctx, n, pgpassPath)
	if err != nil || files[0] == nil {
		return err
	}
	u := n.Cluster.Users
	content := passFile(files[0], map[string]string{u.Replication: next.Replication, u.Rewind: next.Rewind, u.Superuser: next.Superuser})
	if bytes.Equal(content, files[0]) {
		return nil
	}
	return remote.WriteFile(ctx, d.host(n), remote.File{
		Path: pgpassPath, Content: content, Owner: account, Group: account, Mode: "0600", Sensitive: true,
	})
}

// secretsInForce are the passwords that the accounts in the database have now.
// While they are being changed that is for the leader to say.
func (d *Doer) secretsInForce(ctx context.Context, c Cluster) (Secrets, error) {
	k := d.Known
	if k.Next == nil {
		return *k.Secrets, nil
	}
	passwords := changedRoles(c, *k.Secrets, *k.Next)
	record, ok := k.Nodes[k.Leader]
	if !ok || len(passwords) == 0 {
		return *k.Secrets, nil
	}
	have, err := d.verifiers(ctx, Node{Cluster: c, Name: k.Leader, Target: record.Target}, sortedKeys(passwords))
	if err != nil {
		return Secrets{}, errors.Join(fmt.Errorf("a change of the passwords of the cluster %s is not finished, and its leader cannot be asked which it has", c.Name()), err)
	}
	for role, password := range passwords {
		if !postgres.ScramMatches(password, have[role]) {
			return *k.Secrets, nil
		}
	}
	return *k.Next, nil
}
