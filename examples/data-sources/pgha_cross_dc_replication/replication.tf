locals {
  sites = { dc1 = "10.77.1.11", dc2 = "10.77.2.11" }
}

resource "pgha_host" "db" {
  for_each = local.sites
  name     = "${each.key}-pg1"
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  for_each = local.sites
  name     = "dcs-${each.key}"
  version  = "3.5.16"
  members  = { pg1 = { host = pgha_host.db[each.key].access } }
}

resource "pgha_patroni_cluster" "main" {
  for_each         = local.sites
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs[each.key].access
  allowed_networks = ["10.77.0.0/16"]
}

resource "pgha_cross_dc_replication" "main" {
  name    = "main"
  primary = "dc1"
  sites = {
    for site, address in local.sites : site => { clusters = [{ cluster = pgha_patroni_cluster.main[site].membership, hosts = [address] }] }
  }
}
