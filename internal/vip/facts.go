package vip

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Look is what a host sees of the address now.
type Look struct {
	// Subnet is its interface whose subnet the address lies in, if there is one.
	Subnet Subnet
	// Here are interfaces of the host's own that have the address.
	Here []Local
	// Answers are the MACs of other machines that answer for it.
	Answers []string
	Status  Status
}

// Subnet is an interface of a host's, and the address that it has of its own.
type Subnet struct {
	Interface, MAC, Address string
	Prefix                  int
}

// Local is an interface that has the address.
type Local struct {
	Interface string
	Prefix    int
	Lease     bool // it goes by itself
}

// Status is what the guard says of itself; empty if it does not run.
type Status struct {
	Because string `json:"because"`
}

// look asks a host. It brings the program along: nothing may be there yet.
func (s Spec) look(ctx context.Context, h host.Host) (l Look, err error) {
	nic := s.Interface
	if nic == "" {
		nic = "-"
	}
	res, err := h.Run(ctx, host.Cmd{
		Name: "vip.look", Script: "cd /\nexec python3 -I - probe \"$@\"\n",
		Args: []string{s.Address.Addr().String(), nic, s.agent().StatusPath()}, Stdin: guard,
	})
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(res.Stdout)) {
		var seen struct {
			Interface string  `json:"interface"`
			MAC       string  `json:"mac"`
			Address   string  `json:"address"`
			Prefix    int     `json:"prefix"`
			Local     string  `json:"local"`
			Lease     bool    `json:"lease"`
			Answer    string  `json:"answer"`
			Status    *Status `json:"status"`
		}
		if err := json.Unmarshal([]byte(line), &seen); err != nil {
			return l, fmt.Errorf("host %s: what vip.look printed cannot be read: %w", h.Name(), err)
		}
		switch {
		case seen.Interface != "":
			l.Subnet = Subnet{seen.Interface, seen.MAC, seen.Address, seen.Prefix}
		case seen.Local != "":
			l.Here = append(l.Here, Local{seen.Local, seen.Prefix, seen.Lease})
		case seen.Answer != "":
			l.Answers = append(l.Answers, seen.Answer)
		case seen.Status != nil:
			l.Status = *seen.Status
		}
	}
	return l, nil
}

// fits refuses an address that a node's host cannot have.
func (s Spec) fits(n follow.Node, f follow.Facts, l Look) error {
	refuse := func(do, format string, args ...any) error {
		return &problem.Error{Host: n.Target.Name, Step: follow.CannotBe, Cause: fmt.Errorf(format, args...), Left: "everything on the host.", Do: do}
	}
	a, sub := s.Address.Addr(), l.Subnet
	switch {
	case a.String() == n.Address || a.String() == n.Target.Address:
		return refuse("choose an address that no host has of its own.", "%s is the host's own address", a)
	case sub.Interface == "" && s.Interface != "":
		return refuse("choose an address in the subnet of that interface, or another interface.", "its interface %s has no subnet that %s lies in", s.Interface, a)
	case sub.Interface == "":
		return refuse("choose an address of a subnet that all nodes are in. Where they are in several, no virtual address can move between them: use a connection string with all nodes.", "none of its interfaces has a subnet that %s lies in", a)
	case sub.Prefix != s.Address.Bits():
		return refuse(fmt.Sprintf("write address = \"%s/%d\".", a, sub.Prefix), "the subnet of %s on %s has a prefix of %d bits, not %d", sub.Address, sub.Interface, sub.Prefix, s.Address.Bits())
	case f.Unit(packageUnit).Running():
		return refuse("stop it (systemctl disable --now "+packageUnit+"), and remove the address that it leaves behind (ip addr del), then apply again.",
			"%s runs there, which somebody else has set up", packageUnit)
	case f.Owner == nil && len(l.Here) > 0:
		return refuse(fmt.Sprintf("remove it (ip addr del %s/%d dev %s) once nobody needs it there, or choose another address.", a, l.Here[0].Prefix, l.Here[0].Interface),
			"%s has %s already, and not from this provider", l.Here[0].Interface, a)
	}
	return nil
}

// strangers are who answers for the address and is none of the nodes.
func strangers(looks map[string]Look) []string {
	var ours, found []string
	for _, l := range looks {
		ours = append(ours, l.Subnet.MAC)
	}
	for _, l := range looks {
		for _, mac := range l.Answers {
			if !slices.Contains(ours, mac) && !slices.Contains(found, mac) {
				found = append(found, mac)
			}
		}
	}
	slices.Sort(found)
	return found
}

// taken refuses an address that some machine has that is none of the nodes.
func (s Spec) taken(looks map[string]Look) error {
	if found := strangers(looks); len(found) > 0 {
		return &problem.Error{
			Step: follow.CannotBe, Cause: fmt.Errorf("another machine answers for %s: %s", s.Address.Addr(), strings.Join(found, ", ")), Left: "everything.",
			Do: "find out whose it is (its MAC address is the one named), and choose an address that is free.",
		}
	}
	return nil
}

// holders are the nodes whose hosts have the address.
func holders(looks map[string]Look) []string {
	var list []string
	for name, l := range looks {
		if len(l.Here) > 0 {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// wrong says what is not as it should be, with who leads; empty if nobody is to have the
// address.
func (s Spec) wrong(leader string, looks map[string]Look) []string {
	var found []string
	have := holders(looks)
	a := s.Address.Addr().String()
	if _, ours := looks[leader]; leader != "" && !ours {
		return []string{fmt.Sprintf("%s leads, and is not among the nodes that may have %s", leader, a)}
	}
	switch {
	case len(have) > 1:
		found = append(found, fmt.Sprintf("%s is on %s at once", a, strings.Join(have, " and ")))
	case len(have) == 1 && leader == "":
		found = append(found, fmt.Sprintf("%s is on %s, and no %s leads the cluster", a, have[0], s.role()))
	case len(have) == 1 && have[0] != leader:
		found = append(found, fmt.Sprintf("%s is on %s, while %s leads", a, have[0], leader))
	case len(have) == 0 && leader != "":
		because := looks[leader].Status.Because
		if because == "" {
			because = "its guard does not run"
		}
		found = append(found, fmt.Sprintf("no node has %s, though %s leads: %s", a, leader, because))
	}
	for _, name := range have {
		for _, here := range looks[name].Here {
			if !here.Lease {
				found = append(found, fmt.Sprintf("%s is on %s of %s without a lifetime: its guard did not put it there", a, here.Interface, name))
			}
		}
	}
	if list := strangers(looks); len(list) > 0 {
		found = append(found, fmt.Sprintf("another machine answers for %s: %s", a, strings.Join(list, ", ")))
	}
	return found
}
