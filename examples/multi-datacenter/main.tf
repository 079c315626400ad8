# PostgreSQL in two datacenters: each has an etcd and a Patroni cluster of its own, one
# takes writes, and the other follows.
#
#   terraform apply                        # dc1 takes writes
#   terraform apply -var primary_site=dc2  # dc2 does; nothing is lost
#
# If dc1 is lost, with the primary in it:
#
#   terraform apply -var primary_site=dc2 -var failover=forced
#
# It is refused, and names what is lost and which accept_data_loss says yes to that.
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

variable "primary_site" {
  description = "The datacenter that takes writes."
  type        = string
  default     = "dc1"
}

variable "failover" {
  description = "\"planned\", or \"forced\" without the datacenter that has the primary."
  type        = string
  default     = "planned"
}

variable "accept_data_loss" {
  description = "For a forced failover: what its refusal names."
  type        = string
  default     = null
}

module "orders" {
  source           = "../../modules/multi-datacenter"
  scope            = "orders"
  primary_site     = var.primary_site
  failover         = var.failover
  accept_data_loss = var.accept_data_loss
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11" }
  sites = {
    dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" } }
    # b3 is a witness: the third member of etcd, without PostgreSQL.
    dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12", b3 = "10.77.2.13" }, nodes = ["b1", "b2"] }
  }
}

output "conninfo" {
  description = "A connection string that leads to the primary, whichever node of whichever datacenter that is."
  value       = module.orders.conninfo
}

output "ca_certificates" {
  description = "The authorities of both datacenters, for sslrootcert."
  value       = module.orders.ca_certificates
}

# Warns in each plan and apply that finds something wrong, with who takes writes and how
# far the other one is behind. As an output, that would be a change in each plan.
check "replication" {
  assert {
    condition     = length(module.orders.warnings) == 0 && alltrue([for role in values(module.orders.roles) : contains(["primary", "standby"], role)])
    error_message = join("\n", concat(module.orders.warnings, [module.orders.table]))
  }
}
