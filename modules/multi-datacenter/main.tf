# PostgreSQL in two or three datacenters from one map of sites. By default each site has
# an etcd and a Patroni cluster of its own, one of them takes writes, and the others
# follow; primary_site says which. With etcd = "stretched" there is one etcd and one
# cluster over all sites, and Patroni chooses where the primary is.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

locals {
  stretched = var.etcd == "stretched"
  # The cluster that each site belongs to: its own, or the one of all.
  cluster  = { for site in keys(var.sites) : site => local.stretched ? "all" : site }
  clusters = toset(values(local.cluster))

  # Per site: the addresses of its nodes by name, and who is a member of etcd.
  nodes = { for site, s in var.sites : site => { for name in coalesce(s.nodes, keys(s.hosts)) : name => s.hosts[name] } }
  etcd  = { for site, s in var.sites : site => coalesce(s.etcd, keys(s.hosts)) }

  # With a stretched etcd a site can be lost with the primary and all other nodes in it.
  # A commit has to be on one node more than those, or nobody else may take over.
  sync_nodes = local.stretched && var.synchronous_mode != "off" ? max([for nodes in local.nodes : length(nodes)]...) : null
}

resource "pgha_host" "db" {
  for_each = merge([for site, s in var.sites : { for name, address in s.hosts : name => { address = address, ssh = s.ssh } }]...)
  name     = each.key
  address  = each.value.address
  ssh      = each.value.ssh
  apt      = { repositories = var.repositories }
}

resource "pgha_etcd_cluster" "dcs" {
  for_each = local.clusters
  name     = local.stretched ? var.etcd_name : "${var.etcd_name}-${each.key}"
  version  = var.versions.etcd
  members  = { for name in flatten([for site, names in local.etcd : names if local.cluster[site] == each.key]) : name => { host = pgha_host.db[name].access } }

  deletion_protection = var.deletion_protection
}

resource "pgha_patroni_cluster" "main" {
  for_each               = local.clusters
  scope                  = var.scope
  etcd                   = pgha_etcd_cluster.dcs[each.key].access
  failure_detection      = coalesce(var.failure_detection, local.stretched ? "wide" : "normal")
  synchronous_mode       = var.synchronous_mode
  synchronous_node_count = local.sync_nodes
  allowed_networks       = var.allowed_networks
  credentials            = var.credentials_rotation == null ? null : { rotation = var.credentials_rotation }
  postgresql = {
    use_pg_rewind = true
    parameters    = merge({ max_slot_wal_keep_size = var.max_slot_wal_keep_size, tcp_user_timeout = "60s", wal_retrieve_retry_interval = "500ms" }, var.parameters)
  }
  rollout = { allow_downtime = var.allow_downtime }

  deletion_protection = var.deletion_protection
}

resource "pgha_cross_dc_replication" "main" {
  count   = local.stretched ? 0 : 1
  name    = var.scope
  primary = var.primary_site
  sites = {
    for site, s in var.sites : site => {
      clusters                 = [{ cluster = pgha_patroni_cluster.main[site].membership, hosts = values(local.nodes[site]) }]
      follow                   = s.follow
      recovery_min_apply_delay = s.recovery_min_apply_delay
    }
  }
  limits               = var.limits
  failover             = var.failover
  accept_data_loss     = var.accept_data_loss
  credentials_rotation = var.credentials_rotation
}

# Nodes come after the replication: those of a site that follows clone the primary's.
resource "pgha_patroni_node" "db" {
  for_each = merge([for site, nodes in local.nodes : { for name in keys(nodes) : name => site }]...)
  cluster  = pgha_patroni_cluster.main[local.cluster[each.value]].membership
  host     = pgha_host.db[each.key].access
  name     = each.key
  versions = {
    postgresql = var.versions.postgresql
    patroni    = var.versions.patroni
  }

  depends_on = [pgha_cross_dc_replication.main]
}

# A site's address is there while that site has the primary; else nobody has it.
resource "pgha_vip" "primary" {
  for_each  = { for site, s in var.sites : site => s.vip if s.vip != null }
  cluster   = pgha_patroni_cluster.main[local.cluster[each.key]].membership
  nodes     = { for name in keys(local.nodes[each.key]) : name => pgha_patroni_node.db[name].id }
  address   = each.value.address
  interface = each.value.interface
  follow    = "leader"
  version   = var.versions.vip_manager
}

data "pgha_cross_dc_replication" "main" {
  count      = local.stretched ? 0 : 1
  name       = pgha_cross_dc_replication.main[0].name
  sites      = pgha_cross_dc_replication.main[0].sites
  depends_on = [pgha_patroni_node.db]
}
