package customtypes

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
)

func text(k *kind, s string) Text { return Text{StringValue: basetypes.NewStringValue(s), kind: k} }

func TestMeaning(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		k    *kind
		a, b string
		want bool
	}{
		{durationKind, "90s", "1m30s", true},
		{durationKind, "1h", "60m", true},
		{durationKind, "1h", "61m", false},
		{durationKind, "x", "x", false},
		{sizeKind, "1GiB", "1024MiB", true},
		{sizeKind, "1.5GiB", "1536MiB", true},
		{sizeKind, "1GiB", "1MiB", false},
	} {
		got, _ := text(c.k, c.a).StringSemanticEquals(ctx, text(c.k, c.b))
		if got != c.want {
			t.Errorf("%s: %q and %q: %v", c.k.name, c.a, c.b, got)
		}
	}
	for _, bad := range []string{"", "5", "5GB", "GiB", "-1MiB", "1e99TiB", "NaNB"} {
		if n, err := sizeKind.parse(bad); err == nil {
			t.Errorf("size %q is read as %d", bad, n)
		}
	}
	for _, bad := range []string{"", "5", "-5s", "5 s", "1d"} {
		if n, err := durationKind.parse(bad); err == nil {
			t.Errorf("duration %q is read as %d", bad, n)
		}
	}
}

func TestFormat(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * time.Second: "30s", time.Hour: "1h", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m",
		100 * time.Millisecond: "100ms", 0: "0s", 3661 * time.Second: "1h1m1s",
	} {
		if got := DurationValue(d).ValueString(); got != want {
			t.Errorf("%d ns is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1024: "1KiB", 1 << 30: "1GiB", 1<<30 + 1: "1073741825B", 3 << 20: "3MiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
