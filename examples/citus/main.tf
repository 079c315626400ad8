# A Citus formation on six hosts: a coordinator and two groups of workers, each with a
# leader and a replica. Citus is in no Debian release: `repositories` says where the
# hosts find the package postgresql-17-citus.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

variable "groups" {
  description = "The hosts' addresses by name, by number of the group. Group 0 is the coordinator's."
  type        = map(map(string))
  default = {
    "0" = { c1 = "10.77.1.11", c2 = "10.77.1.12" }
    "1" = { a1 = "10.77.1.13", a2 = "10.77.1.14" }
    "2" = { b1 = "10.77.1.15", b2 = "10.77.1.16" }
  }
}

variable "repositories" {
  description = "Repositories that have Citus, as in apt.repositories of pgha_host; none if the hosts have one already."
  type        = any
  default     = null
}

module "shop" {
  source           = "../../modules/citus-cluster"
  scope            = "shop"
  database         = "shop"
  groups           = var.groups
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", citus = "13.2.2" }
  repositories     = var.repositories
}

data "pgha_citus" "shop" {
  cluster    = module.shop.membership
  depends_on = [module.shop]
}

output "coordinator" {
  description = "A connection string that leads to the coordinator's primary, whichever host that is."
  value       = module.shop.coordinator
}

output "formation" {
  description = "The groups, and the shards on them."
  value       = data.pgha_citus.shop.table
}
