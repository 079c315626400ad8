# A Citus formation from one map of hosts: a coordinator (group 0) and groups of
# workers, each of them a Patroni cluster with a leader and replicas, and etcd on
# hosts of the first groups.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
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
  name    = var.etcd_name
  version = var.versions.etcd
  members = { for name in local.etcd : name => { host = pgha_host.db[name].access } }

  deletion_protection = var.deletion_protection
}

resource "pgha_patroni_cluster" "group" {
  for_each         = var.groups
  scope            = var.scope
  citus            = { group = tonumber(each.key), database = var.database, extension_version = each.key == "0" ? var.versions.citus_extension : null }
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = var.allowed_networks

  # A node that has just lost its upstream tries again this soon, and not after 5 s: with
  # synchronous_mode nobody can commit before the former leader follows the new one.
  postgresql = { parameters = merge({ wal_retrieve_retry_interval = "500ms" }, var.parameters) }
  rollout    = { allow_downtime = var.allow_downtime }

  deletion_protection = var.deletion_protection
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
  rebalance         = var.rebalance
}

resource "pgha_vip" "group" {
  for_each  = var.vips
  cluster   = pgha_patroni_cluster.group[each.key].membership
  nodes     = { for name in keys(var.groups[each.key]) : name => pgha_patroni_node.db[name].id }
  address   = each.value.address
  interface = each.value.interface
  follow    = "leader"
  version   = var.versions.vip_manager
}
