package base

import (
	"context"
	"log/slog"

	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/pgha/terraform-provider-pgha/internal/redact"
)

// NewLogger returns a logger that hands what the domain logs to tflog, with
// secrets masked. The domain itself does not know Terraform.
func NewLogger(secrets *redact.Set) *slog.Logger { return slog.New(handler{secrets: secrets}) }

type handler struct {
	secrets *redact.Set
	attrs   []slog.Attr
	prefix  string
}

// Enabled is always true: what is shown is tflog's decision.
func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	fields := map[string]any{}
	put := func(a slog.Attr) {
		fields[h.prefix+a.Key] = h.secrets.Apply(a.Value.Resolve().String())
	}
	for _, a := range h.attrs {
		put(a)
	}
	r.Attrs(func(a slog.Attr) bool {
		put(a)
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
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.prefix += name + "."
	return h
}
