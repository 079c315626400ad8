# The cluster as it is now: who leads, who follows and how far behind. It is a
# configuration of its own, because these facts change by themselves: as an
# output of the quickstart they would show up in its every plan.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

data "terraform_remote_state" "quickstart" {
  backend = "local"
  config  = { path = "../quickstart/terraform.tfstate" }
}

data "pgha_cluster" "main" {
  cluster = data.terraform_remote_state.quickstart.outputs.membership
}

output "table" {
  value = data.pgha_cluster.main.table
}

output "leader" {
  value = data.pgha_cluster.main.leader
}

output "warnings" {
  value = data.pgha_cluster.main.warnings
}
