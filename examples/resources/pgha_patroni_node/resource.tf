resource "pgha_patroni_node" "db" {
  for_each = pgha_host.db
  cluster  = pgha_patroni_cluster.main.membership
  host     = each.value.access
  name     = each.key
  versions = {
    postgresql = "17.11"
    patroni    = "4.0.7"
  }
}

# A replica for reports: it never leads and no commit waits for it.
resource "pgha_patroni_node" "reports" {
  cluster = pgha_patroni_cluster.main.membership
  host    = pgha_host.reports.access
  name    = "reports1"
  versions = {
    postgresql = "17.11"
    patroni    = "4.0.7"
  }
  tags = {
    nofailover = true
    nosync     = true
  }
}
