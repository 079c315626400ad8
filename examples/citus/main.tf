# A Citus formation: a coordinator and groups of workers, each of them a Patroni
# cluster with a leader and a replica, from one map of hosts. Citus is in no Debian
# release: `repositories` says where the hosts find the package postgresql-17-citus.

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

variable "allowed_networks" {
  description = "Networks from which clients and the nodes themselves may connect to PostgreSQL."
  type        = list(string)
  default     = ["10.77.0.0/16"]
}

variable "versions" {
  description = "Exact versions to install."
  type        = object({ etcd = string, patroni = string, postgresql = string, citus = string })
  default     = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", citus = "13.2.2" }
}

variable "repositories" {
  description = "Repositories that have Citus, as in apt.repositories of pgha_host; none if the hosts have one already."
  type        = any
  default     = null
}

locals {
  nodes = merge([for group, hosts in var.groups : { for name, address in hosts : name => { group = group, address = address } }]...)
  # etcd is on the first host of each of the first three groups.
  etcd = [for group in slice(sort(keys(var.groups)), 0, 3) : sort(keys(var.groups[group]))[0]]
}

resource "pgha_host" "db" {
  for_each = local.nodes
  name     = each.key
  address  = each.value.address
  apt      = { repositories = var.repositories }
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = var.versions.etcd
  members = { for name in local.etcd : name => { host = pgha_host.db[name].access } }
}

resource "pgha_patroni_cluster" "group" {
  for_each         = var.groups
  scope            = "shop"
  citus            = { group = tonumber(each.key), database = "shop" }
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = var.allowed_networks
}

resource "pgha_patroni_node" "db" {
  for_each = local.nodes
  cluster  = pgha_patroni_cluster.group[each.value.group].membership
  host     = pgha_host.db[each.key].access
  name     = each.key
  versions = {
    postgresql = var.versions.postgresql
    patroni    = var.versions.patroni
    citus      = var.versions.citus
  }
}

resource "pgha_citus_worker_group" "worker" {
  for_each          = { for group, hosts in var.groups : group => hosts if group != "0" }
  cluster           = pgha_patroni_cluster.group[each.key].membership
  nodes             = [for name in sort(keys(each.value)) : pgha_patroni_node.db[name].id]
  coordinator_nodes = [for name in sort(keys(var.groups["0"])) : pgha_patroni_node.db[name].id]
  rebalance         = "on_join"
}

output "coordinator" {
  description = "A connection string that leads to the coordinator's primary, whichever host that is."
  value       = provider::pgha::conninfo(values(var.groups["0"]), "shop", "read-write", "sslmode=verify-full")
}
