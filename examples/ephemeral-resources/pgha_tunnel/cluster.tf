resource "pgha_host" "db" {
  name    = "pg1"
  address = "10.0.0.11"
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { pg1 = { host = pgha_host.db.access } }
}

resource "pgha_patroni_cluster" "main" {
  scope = "main"
  etcd  = pgha_etcd_cluster.dcs.access
}
