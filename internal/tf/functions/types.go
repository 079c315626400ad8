package functions

import "github.com/hashicorp/terraform-plugin-framework/types"

var stringType = types.StringType
