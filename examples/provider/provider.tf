terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

provider "pgha" {
  ssh {
    user             = "admin" # uses sudo on the hosts
    private_key_file = "~/.ssh/id_ed25519"
    bastions         = [{ host = "bastion.example.com", user = "jump" }]
  }
}
