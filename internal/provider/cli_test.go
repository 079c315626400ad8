package provider_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

func TestMain(m *testing.M) { os.Exit(cli.Main(m)) }

// keyFile makes a private key that opens nothing.
func keyFile(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id_ed25519")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// closedPort is one on which nobody answers.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// What the tests of this package hold the provider to, seen through the real
// CLI: an address that is known only while applying is no obstacle to a plan,
// a mistake is shown at its line, and a create that fails leaves no state.
func TestThroughTheCLI(t *testing.T) {
	d := cli.New(t, map[string]string{"main.tf": fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
variable "name" { default = "h1" }
resource "terraform_data" "vm" {
  input = "127.0.0.1"
}
provider "pgha" {
  ssh {
    user             = terraform_data.vm.output == "" ? "x" : "root"
    port             = %d
    private_key_file = %q
    boot_timeout     = "1s"
    connect_timeout  = "1s"
  }
}
resource "pgha_host" "h" {
  name    = var.name
  address = terraform_data.vm.output
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { h1 = { host = pgha_host.h.access } }
}
resource "pgha_patroni_cluster" "main" {
  scope = "main"
  etcd  = pgha_etcd_cluster.dcs.access
}
resource "pgha_patroni_node" "n" {
  cluster  = pgha_patroni_cluster.main.membership
  host     = pgha_host.h.access
  name     = "h1"
  versions = { postgresql = "17.11", patroni = "4.0.7" }
}
`, closedPort(t), keyFile(t))}, "HOME="+t.TempDir(), "SSH_AUTH_SOCK=")
	ctx := t.Context()
	if o := d.Plan(ctx); o.Code != 2 || !o.Contains("5 to add, 0 to change, 0 to destroy") {
		t.Errorf("exit status %d:\n%s", o.Code, o.Text)
	}
	if o := d.Plan(ctx, "-var", "name=a b"); o.Code != 1 || !o.Contains("name    = var.name") || !o.Contains("must begin and end with a letter or a digit") {
		t.Errorf("exit status %d:\n%s", o.Code, o.Text)
	}
	o := d.TryApply(ctx)
	if o.Code != 1 || !o.Contains("Unable to create host h1") || !o.Contains("connection refused") {
		t.Errorf("exit status %d:\n%s", o.Code, o.Text)
	}
	if got := d.Resources(ctx); strings.Join(got, " ") != "terraform_data.vm" {
		t.Errorf("in the state: %q", got)
	}
}
