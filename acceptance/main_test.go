package acceptance

import (
	"os"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

func TestMain(m *testing.M) { os.Exit(cli.Main(m)) }
