package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// EnableAuth does each step unless it is done, so that a run cut off between
// two of them is continued. That authentication is on is enough.
func (g *grpcClient) EnableAuth(ctx context.Context, c Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	// Whether authentication is on can be asked for only since 3.5. Where it
	// is, and this client logged in before, all of this changes nothing.
	switch _, err := g.c.Get(ctx, "/pgha/", clientv3.WithCountOnly()); {
	case errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrPermissionDenied):
		return nil
	case err != nil:
		return g.translate(err)
	}
	if _, err := g.c.RoleAdd(ctx, "root"); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return g.translate(err)
	}
	for user, password := range map[string]string{"root": c.Root, ProviderUser: c.Provider} {
		if err := g.user(ctx, user, password, "root"); err != nil {
			return err
		}
	}
	_, err := g.c.AuthEnable(ctx)
	return g.translate(err)
}

func (g *grpcClient) DisableAuth(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.AuthDisable(ctx)
	return g.translate(err)
}

// AuthEnabled finds it out by logging in, or by reading without having done so. It
// does not ask for etcd's own status of authentication: that request, which came with
// 3.5, is an entry of the log of all members, and a 3.4 among them panics at it (seen
// in the lab, half way through an upgrade: two of three members were gone).
func (g *grpcClient) AuthEnabled(ctx context.Context) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var err error
	if g.login == "" {
		_, err = g.c.Get(ctx, "/pgha/", clientv3.WithCountOnly())
	} else {
		_, err = g.c.Authenticate(ctx, g.login, g.password)
	}
	switch {
	case err == nil:
		return g.login != "", nil
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return false, nil
	case errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrPermissionDenied):
		return true, nil
	}
	return false, g.translate(err)
}

// user makes a user with a password and one role, or sets the password of the
// one there is.
func (g *grpcClient) user(ctx context.Context, user, password, role string) error {
	_, err := g.c.UserAdd(ctx, user, password)
	if errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		_, err = g.c.UserChangePassword(ctx, user, password)
	}
	if err != nil {
		return g.translate(err)
	}
	_, err = g.c.UserGrantRole(ctx, user, role)
	return g.translate(err)
}

func (g *grpcClient) GrantUser(ctx context.Context, user, password string, prefixes ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	if _, err := g.c.RoleAdd(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return g.translate(err)
	}
	for _, p := range prefixes {
		_, err := g.c.RoleGrantPermission(ctx, user, p, clientv3.GetPrefixRangeEnd(p), clientv3.PermissionType(clientv3.PermReadWrite))
		if err != nil {
			return g.translate(err)
		}
	}
	return g.user(ctx, user, password, user)
}

func (g *grpcClient) DropUser(ctx context.Context, user string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	if _, err := g.c.UserDelete(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrUserNotFound) {
		return g.translate(err)
	}
	if _, err := g.c.RoleDelete(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrRoleNotFound) {
		return g.translate(err)
	}
	return nil
}
