package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// reserved are names that Terraform gives a meaning of its own in a resource or
// provider block ("Meta-Arguments" in its documentation).
var reserved = map[string]bool{
	"count": true, "for_each": true, "depends_on": true, "provider": true, "lifecycle": true, "connection": true, "provisioner": true,
	"alias": true, "version": true,
}

// everySchema calls a function with each schema and the page it is described on.
func everySchema(t *testing.T, f func(page string, s *tfprotov6.Schema)) {
	t.Helper()
	c := newCore(t, nil, nil)
	f("provider", c.schemas.Provider)
	for name, s := range c.schemas.ResourceSchemas {
		f("resource "+name, s)
	}
	for name, s := range c.schemas.DataSourceSchemas {
		f("data source "+name, s)
	}
	for name, s := range c.schemas.EphemeralResourceSchemas {
		f("ephemeral resource "+name, s)
	}
}

// everyAttribute calls a function with each attribute and its path.
func everyAttribute(prefix string, attributes []*tfprotov6.SchemaAttribute, f func(path string, a *tfprotov6.SchemaAttribute)) {
	for _, a := range attributes {
		f(prefix+a.Name, a)
		if a.NestedType != nil {
			everyAttribute(prefix+a.Name+".", a.NestedType.Attributes, f)
		}
	}
}

func everything(s *tfprotov6.Schema, f func(path string, a *tfprotov6.SchemaAttribute)) {
	everyAttribute("", s.Block.Attributes, f)
	for _, b := range s.Block.BlockTypes {
		everyAttribute(b.TypeName+".", b.Block.Attributes, f)
	}
}

// Everything is described, in sentences: the registry's pages are made of it.
func TestEverythingIsDescribed(t *testing.T) {
	attributes := 0
	everySchema(t, func(page string, s *tfprotov6.Schema) {
		sentence := func(path, text string) {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %s is described as %q", page, path, text)
			}
		}
		sentence("itself", s.Block.Description)
		for _, b := range s.Block.BlockTypes {
			if b.TypeName != "timeouts" { // the framework's own, with described attributes
				sentence(b.TypeName, b.Block.Description)
			}
		}
		everything(s, func(path string, a *tfprotov6.SchemaAttribute) {
			attributes++
			sentence(path, a.Description)
		})
	})
	if attributes < 100 {
		t.Errorf("only %d attributes were looked at", attributes)
	}
}

// No attribute is called what Terraform takes for something else. "version" is
// one only in a provider block, as is "alias".
func TestNoReservedNames(t *testing.T) {
	everySchema(t, func(page string, s *tfprotov6.Schema) {
		for _, a := range s.Block.Attributes {
			if reserved[a.Name] && (page == "provider" || a.Name != "version" && a.Name != "alias") {
				t.Errorf("%s: %s is a word of Terraform's own", page, a.Name)
			}
		}
		for _, b := range s.Block.BlockTypes {
			if reserved[b.TypeName] {
				t.Errorf("%s: %s is a word of Terraform's own", page, b.TypeName)
			}
		}
	})
}

// What has a password or a key in its name is sensitive, and in a resource it is
// write-only: it is in no state.
func TestSecretsAreMarked(t *testing.T) {
	found := 0
	everySchema(t, func(page string, s *tfprotov6.Schema) {
		everything(s, func(path string, a *tfprotov6.SchemaAttribute) {
			name := a.Name
			if !strings.Contains(name, "password") && name != "private_key" && name != "private_key_passphrase" || strings.HasSuffix(name, "_version") {
				return
			}
			found++
			if !a.Sensitive {
				t.Errorf("%s: %s is not sensitive", page, path)
			}
			if strings.HasPrefix(page, "resource ") && !a.WriteOnly {
				t.Errorf("%s: %s is kept in the state", page, path)
			}
		})
	})
	if found < 9 {
		t.Errorf("only %d secrets were found", found)
	}
}
