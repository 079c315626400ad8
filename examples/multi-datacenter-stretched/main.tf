# One PostgreSQL cluster over three datacenters: one etcd is stretched over all of them, and
# Patroni chooses where the primary is. A datacenter that is lost is replaced by itself, and
# no acknowledged row is lost with it: each commit waits for a node of another one.
#
# The third datacenter needs no PostgreSQL. Without it there is no majority when one of two
# is lost: then have an etcd in each, and move the primary yourself (../multi-datacenter).
#
# How the hosts are reached is in the environment (PGHA_SSH_USER and so on) or in the
# provider block; see ../provider.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

provider "pgha" {
  # A plan goes on, and warns, while a datacenter cannot be reached.
  on_unreachable = "keep"
}

module "orders" {
  source           = "../../modules/multi-datacenter"
  scope            = "orders"
  etcd             = "stretched"
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11" }
  sites = {
    dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12" } }
    dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12" } }
    dc3 = { hosts = { c1 = "10.77.3.11" }, nodes = [] } # a witness
  }
}

output "conninfo" {
  description = "A connection string that leads to the primary, whichever node of whichever datacenter that is."
  value       = module.orders.conninfo
}

output "ca_certificate" {
  description = "The authority of the cluster, for sslrootcert."
  value       = module.orders.ca_certificates
}
