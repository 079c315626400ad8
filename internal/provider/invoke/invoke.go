// Package invoke runs an action of the provider in this process, through the protocol
// as Terraform does: for tests on real hosts, since not every CLI that runs them knows
// actions.
package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/provider"
)

// Action runs an action of a provider that is configured so, and calls tell with each
// line of progress. Configurations are objects as in JSON. The error has all
// diagnostics.
func Action(ctx context.Context, configuration map[string]any, name string, config map[string]any, tell func(string)) error {
	server := providerserver.NewProtocol6(provider.New("test", nil)())()
	whole, err := value(configuration)
	if err != nil {
		return err
	}
	configured, err := server.ConfigureProvider(ctx, &tfprotov6.ConfigureProviderRequest{TerraformVersion: "1.14.0", Config: whole})
	if err != nil {
		return err
	}
	if err := failed(configured.Diagnostics); err != nil {
		return err
	}
	actions, ok := server.(interface {
		InvokeAction(context.Context, *tfprotov6.InvokeActionRequest) (*tfprotov6.InvokeActionServerStream, error)
	})
	if !ok {
		return errors.New("the provider has no actions")
	}
	part, err := value(config)
	if err != nil {
		return err
	}
	stream, err := actions.InvokeAction(ctx, &tfprotov6.InvokeActionRequest{ActionType: name, Config: part})
	if err != nil {
		return err
	}
	var errs []error
	for e := range stream.Events {
		switch e := e.Type.(type) {
		case tfprotov6.ProgressInvokeActionEventType:
			tell(e.Message)
		case tfprotov6.CompletedInvokeActionEventType:
			errs = append(errs, failed(e.Diagnostics))
		}
	}
	return errors.Join(errs...)
}

func value(v map[string]any) (*tfprotov6.DynamicValue, error) {
	b, err := json.Marshal(v)
	return &tfprotov6.DynamicValue{JSON: b}, err
}

func failed(diags []*tfprotov6.Diagnostic) error {
	var errs []error
	for _, d := range diags {
		if d.Severity == tfprotov6.DiagnosticSeverityError {
			errs = append(errs, fmt.Errorf("%s: %s", d.Summary, d.Detail))
		}
	}
	return errors.Join(errs...)
}
