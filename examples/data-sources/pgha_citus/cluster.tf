resource "pgha_host" "db" {
  for_each = { c1 = "10.77.1.11", a1 = "10.77.1.12", a2 = "10.77.1.13" }
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.db : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "coordinator" {
  scope            = "shop"
  citus            = { group = 0, database = "shop" }
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["10.77.0.0/16"]
}

