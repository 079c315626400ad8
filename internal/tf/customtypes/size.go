package customtypes

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
)

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

var sizeKind = &kind{name: "size", parse: func(s string) (int64, error) {
	wrong := fmt.Errorf("%q is not a size such as \"512MiB\" or \"2GiB\" (units: B, KiB, MiB, GiB, TiB)", s)
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) || n*float64(u.bytes) > math.MaxInt64 {
			return 0, wrong
		}
		return int64(n * float64(u.bytes)), nil
	}
	return 0, wrong
}}

// SizeType is the type of sizes, with a binary unit.
var SizeType basetypes.StringTypable = textType{kind: sizeKind}

// SizeValue returns a number of bytes as a value.
func SizeValue(bytes int64) Text {
	return Text{StringValue: basetypes.NewStringValue(FormatSize(bytes)), kind: sizeKind}
}

// SizeNull is no size.
func SizeNull() Text { return Text{StringValue: basetypes.NewStringNull(), kind: sizeKind} }

// FormatSize renders a number of bytes with the largest unit that leaves no
// fraction.
func FormatSize(bytes int64) string {
	for _, u := range sizeUnits {
		if bytes != 0 && bytes%u.bytes == 0 {
			return strconv.FormatInt(bytes/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// Bytes returns the value's meaning, zero if it is null or unknown.
func (v Text) Bytes() int64 { return v.number() }
