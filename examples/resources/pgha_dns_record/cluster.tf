resource "pgha_host" "db" {
  for_each = { pg1 = "10.77.1.11", pg2 = "10.77.1.12", pg3 = "10.77.1.13" }
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.db : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["10.77.0.0/16"]
}

resource "pgha_patroni_node" "db" {
  for_each = pgha_host.db
  cluster  = pgha_patroni_cluster.main.membership
  host     = each.value.access
  name     = each.key
  versions = { postgresql = "17.11", patroni = "4.0.7" }
}
