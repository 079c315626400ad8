# Another site takes writes: terraform apply -var primary_site=dc2
variable "primary_site" {
  type    = string
  default = "dc1"
}

resource "pgha_cross_dc_replication" "main" {
  name    = "main"
  primary = var.primary_site
  sites = {
    dc1 = { clusters = [{ cluster = pgha_patroni_cluster.dc1.membership, hosts = values(local.dc1) }] }
    dc2 = { clusters = [{ cluster = pgha_patroni_cluster.dc2.membership, hosts = values(local.dc2) }] }
  }
}

# The nodes come after it: those of the site that follows clone those of the primary.
resource "pgha_patroni_node" "dc1" {
  for_each   = pgha_host.dc1
  cluster    = pgha_patroni_cluster.dc1.membership
  host       = each.value.access
  name       = each.key
  versions   = { postgresql = "17.11", patroni = "4.0.7" }
  depends_on = [pgha_cross_dc_replication.main]
}

resource "pgha_patroni_node" "dc2" {
  for_each   = pgha_host.dc2
  cluster    = pgha_patroni_cluster.dc2.membership
  host       = each.value.access
  name       = each.key
  versions   = { postgresql = "17.11", patroni = "4.0.7" }
  depends_on = [pgha_cross_dc_replication.main]
}
