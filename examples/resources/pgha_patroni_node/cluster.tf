resource "pgha_host" "db" {
  for_each = { pg1 = "10.0.0.11", pg2 = "10.0.0.12", pg3 = "10.0.0.13" }
  name     = each.key
  address  = each.value
}

resource "pgha_host" "reports" {
  name    = "reports1"
  address = "10.0.0.14"
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.db : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["10.0.0.0/16"]
}
