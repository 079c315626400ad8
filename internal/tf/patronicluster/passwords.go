package patronicluster

import (
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// rotation is the number for which passwords are made.
func (m *model) rotation() int64 {
	if m.accounts == nil {
		return 0
	}
	return m.accounts.Rotation.ValueInt64()
}

// origin is where the passwords are to be from: a version says that one is
// brought.
func (m *model) origin() patroni.Origin {
	made := patroni.Made(m.rotation())
	of := func(version types.Int64) string {
		if version.IsNull() {
			return made
		}
		return patroni.Brought(version.ValueInt64())
	}
	account := func(a *accountModel) string {
		if a == nil {
			return made
		}
		return of(a.PasswordVersion)
	}
	o := patroni.Origin{Superuser: made, Replication: made, Rewind: made, API: made, Etcd: made}
	if c := m.accounts; c != nil {
		if c.Superuser != nil {
			o.Superuser = of(c.Superuser.PasswordVersion)
		}
		o.Replication, o.Rewind, o.API = account(c.Replication), account(c.Rewind), account(c.RestAPI)
	}
	return o
}

// passwords says what becomes of which account's password, and refuses what
// cannot be meant.
func passwords(before, m model, c patroni.Cluster, diags *diag.Diagnostics) {
	if m.Credentials.IsUnknown() || m.accounts != nil && m.accounts.Rotation.IsUnknown() {
		return
	}
	if was, rotation := before.rotation(), m.rotation(); rotation < was {
		diags.AddAttributeError(path.Root("credentials").AtName("rotation"), "Invalid rotation",
			fmt.Sprintf("The passwords were made for rotation %d, and %d is wanted; passwords that were replaced do not come back.\nWhat to do: set it to %d, or raise it to have new ones made.", was, rotation, was))
		return
	}
	old, wanted, users := before.origin(), m.origin(), m.users()
	var changes []string
	for _, a := range []struct{ what, attribute, before, now string }{
		{"the superuser " + users.Superuser, "superuser", old.Superuser, wanted.Superuser},
		{"replication (" + users.Replication + ")", "replication", old.Replication, wanted.Replication},
		{"pg_rewind (" + users.Rewind + ")", "rewind", old.Rewind, wanted.Rewind},
		{"Patroni's REST API (" + users.API + ")", "rest_api", old.API, wanted.API},
		{"the cluster's user in etcd", "", old.Etcd, wanted.Etcd},
	} {
		switch {
		case a.before == a.now:
		case strings.HasPrefix(a.now, "brought:"):
			changes = append(changes, a.what+": the one in credentials."+a.attribute+".password_wo")
		case a.attribute == "" && !c.Etcd.Auth:
		default:
			changes = append(changes, a.what+": a new one is made")
		}
	}
	if len(changes) == 0 {
		return
	}
	scope := m.ID.ValueString()
	if c.Adopted() {
		diags.AddAttributeError(path.Root("credentials"), "The passwords of a cluster that was imported cannot be changed",
			"They are in its nodes' own configuration files, and stay there; nothing was touched.\nWhat to do: leave rotation, password_wo and password_wo_version out.")
		return
	}
	diags.AddWarning("Applying this changes passwords of "+scope,
		"Passwords for:\n  "+strings.Join(changes, "\n  ")+
			"\nAll nodes are reloaded; nothing restarts and nobody else leads. Connections that are open stay open. From then on the old passwords are refused: whoever else uses them has to have the new ones (pgha_credentials opens them).")
}
