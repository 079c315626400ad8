locals {
  dc1 = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" }
  dc2 = { b1 = "10.77.2.11", b2 = "10.77.2.12", b3 = "10.77.2.13" }
}

resource "pgha_host" "dc1" {
  for_each = local.dc1
  name     = each.key
  address  = each.value
}

resource "pgha_host" "dc2" {
  for_each = local.dc2
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dc1" {
  name    = "dcs-dc1"
  version = "3.5.16"
  members = { for name, host in pgha_host.dc1 : name => { host = host.access } }
}

resource "pgha_etcd_cluster" "dc2" {
  name    = "dcs-dc2"
  version = "3.5.16"
  members = { for name, host in pgha_host.dc2 : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "dc1" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dc1.access
  allowed_networks = ["10.77.0.0/16"]
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "10GB", tcp_user_timeout = "60s" } }
}

resource "pgha_patroni_cluster" "dc2" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dc2.access
  allowed_networks = ["10.77.0.0/16"]
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "10GB", tcp_user_timeout = "60s" } }
}
