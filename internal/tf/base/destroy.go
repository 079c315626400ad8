package base

import (
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
)

// Purge is the value of on_destroy that deletes data.
const Purge = "purge"

// OnDestroyAttribute is on_destroy; what is kept or deleted is the resource's
// own text.
func OnDestroyAttribute(text string) schema.Attribute {
	return schema.StringAttribute{
		Optional: true, Computed: true, Default: stringdefault.StaticString("keep_data"),
		MarkdownDescription: text + " The value that counts is the one that was last applied.",
		Validators:          []validator.String{stringvalidator.OneOf("keep_data", Purge)},
	}
}

// DeletionProtectionAttribute is deletion_protection.
func DeletionProtectionAttribute(text string) schema.Attribute {
	return schema.BoolAttribute{
		Optional: true, Computed: true, Default: booldefault.StaticBool(true),
		MarkdownDescription: text + " True by default: set it to false and apply that before destroying.",
	}
}
