package base

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

// Timeouts are how long each operation on a resource may take by default.
type Timeouts struct{ Create, Read, Update, Delete time.Duration }

// Block is the timeouts block, which tells the defaults.
func (t Timeouts) Block(ctx context.Context) schema.Block {
	return timeouts.Block(ctx, timeouts.Opts{
		Create: true, CreateDescription: timeoutText("creating", t.Create),
		Read: true, ReadDescription: timeoutText("a refresh", t.Read),
		Update: true, UpdateDescription: timeoutText("an update", t.Update),
		Delete: true, DeleteDescription: timeoutText("destroying", t.Delete),
	})
}

// ReadTimeoutText describes the timeout of a data source, which has a default.
func ReadTimeoutText(d time.Duration) string { return timeoutText("reading", d) }

func timeoutText(what string, d time.Duration) string {
	return fmt.Sprintf("How long %s may take, as a duration such as `90s` or `1h30m`; `%s` by default.", what, customtypes.DurationValue(d).ValueString())
}
