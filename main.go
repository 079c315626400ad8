// Command terraform-provider-pgha is the Terraform and OpenTofu provider pgha.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	godebug "runtime/debug"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/pgha/terraform-provider-pgha/internal/provider"
)

// version is set by the release build.
var version = "dev"

// Address is the provider's source address.
const address = "registry.terraform.io/pgha/pgha"

func main() {
	debug := flag.Bool("debug", false, "serve for a debugger: print what to set TF_REATTACH_PROVIDERS to, and wait")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Println(version)
		os.Exit(0)
	}
	// Most of what is in use are the connections to the hosts. The collector may
	// work a little more often, so that what is free does not double it.
	if os.Getenv("GOGC") == "" {
		godebug.SetGCPercent(40)
	}
	err := providerserver.Serve(context.Background(), provider.New(version, nil), providerserver.ServeOpts{Address: address, Debug: *debug})
	if err != nil {
		log.Fatal(err)
	}
}
