package customtypes

import (
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
)

var durationKind = &kind{name: "duration", parse: func(s string) (int64, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as \"30s\", \"1m30s\" or \"100ms\"", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	return int64(d), nil
}}

// DurationType is the type of durations, in Go's form.
var DurationType basetypes.StringTypable = textType{kind: durationKind}

// DurationValue returns a duration as a value.
func DurationValue(d time.Duration) Text {
	return Text{StringValue: basetypes.NewStringValue(trim(d)), kind: durationKind}
}

// DurationNull is no duration.
func DurationNull() Text { return Text{StringValue: basetypes.NewStringNull(), kind: durationKind} }

// Duration returns the value's meaning, zero if it is null or unknown.
func (v Text) Duration() time.Duration { return time.Duration(v.number()) }

// trim renders 30 s as "30s" and an hour as "1h", where Go says "1h0m0s".
func trim(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(s) > len(zero) && s[len(s)-len(zero):] == zero {
			s = s[:len(s)-2]
		}
	}
	return s
}
