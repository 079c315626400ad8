package base

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/pgha/terraform-provider-pgha/internal/redact"
)

// NewLogger returns a logger that hands what the domain logs to tflog, with
// secrets masked. The domain itself does not know Terraform.
func NewLogger(secrets *redact.Set) *slog.Logger {
	return slog.New(handler{secrets: secrets, read: slices.ContainsFunc(os.Environ(), asksForLogs)})
}

// asksForLogs recognises the variables with which Terraform's logs are turned on
// (TF_LOG, TF_LOG_PROVIDER, TF_LOG_PROVIDER_PGHA, TF_ACC_LOG_PATH, ...). Whatever
// their values are, tflog decides what is shown.
func asksForLogs(variable string) bool {
	name, value, _ := strings.Cut(variable, "=")
	return value != "" && (strings.HasPrefix(name, "TF_LOG") || strings.HasPrefix(name, "TF_ACC_LOG"))
}

type handler struct {
	secrets *redact.Set
	read    bool // somebody may read it
	attrs   []slog.Attr
	prefix  string
}

// Enabled saves making up what nobody reads, which for a large fleet is a good
// part of all work.
func (h handler) Enabled(context.Context, slog.Level) bool { return h.read }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	fields := map[string]any{}
	put := func(key string, v slog.Value) { fields[key] = h.secrets.Apply(v.Resolve().String()) }
	for _, a := range h.attrs {
		put(a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		put(h.prefix+a.Key, a.Value)
		return true
	})
	message := h.secrets.Apply(r.Message)
	switch {
	case r.Level >= slog.LevelError:
		tflog.Error(ctx, message, fields)
	case r.Level >= slog.LevelWarn:
		tflog.Warn(ctx, message, fields)
	case r.Level >= slog.LevelInfo:
		tflog.Info(ctx, message, fields)
	case r.Level >= slog.LevelDebug:
		tflog.Debug(ctx, message, fields)
	default:
		tflog.Trace(ctx, message, fields)
	}
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs { // of the groups there are by now, and no later one
		h.attrs = append(h.attrs, slog.Attr{Key: h.prefix + a.Key, Value: a.Value})
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.prefix += name + "."
	return h
}
